"""The two ceilings of a machine, measured: bytes per second of a copy, operations per second of a matrix product.

A kernel's floor is the larger of its least bytes at the first and its operations at the second.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from benchmarks.clock import median_seconds

_COPY_BYTES = {"cuda": 2 << 30, "cpu": 64 << 20}  # far more than any cache, on a GPU
_MATMUL_SIZE = {"cuda": 8192, "cpu": 1024}


class Ceilings(NamedTuple):
    """bandwidth: bytes per second, read and written; matmul: floating-point operations per second."""

    bandwidth: float
    matmul: float

    def floor(self, flops: float, least_bytes: float) -> float:
        """Seconds that work of this size takes at least."""
        return max(flops / self.matmul, least_bytes / self.bandwidth)


def measure(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """The two ceilings of `device`, the product in `dtype`."""
    source = torch.ones(_COPY_BYTES[device.type], dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    copy = median_seconds(lambda _: target.copy_(source), device)
    size = _MATMUL_SIZE[device.type]
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return Ceilings(2 * len(source) / copy, 2 * size**3 / median_seconds(lambda _: a @ b, device))
