"""Prepared measurements for a CUDA device that is lent for minutes: see README.md beside this file."""
