"""Kernels compiled for GPUs on a machine without one: see `launches.py` for how an operation takes part."""
