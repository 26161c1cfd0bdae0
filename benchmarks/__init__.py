"""Measurements: `kernels/` of single operations, `engine/` of the engine as a whole, `results/` what was measured."""
