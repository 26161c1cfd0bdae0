"""Times of single operations against the machine's ceilings: `python -m benchmarks.kernels`."""
