"""What measures the library: its speed, its limits, and what it does on a CUDA device."""
