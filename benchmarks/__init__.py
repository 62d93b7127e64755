"""Measurements of the library: its speed, its limits, and its behaviour on a CUDA device."""
