"""Autoregressive decoding: which request gets which slots, which step runs, which hypothesis wins."""
