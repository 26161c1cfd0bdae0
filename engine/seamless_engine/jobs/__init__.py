"""Batch jobs: inputs of any number to result files, through crashes and restarts, over the public API."""
