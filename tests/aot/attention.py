"""The launches of attention: q, k, v as views of one projection, without and with `valid`."""

from __future__ import annotations

import torch

from seamless_kernels.attention import IMPLS

MATRIX = ("_kernel",)
COUNTS = ("segments",)
_HEADS = 16


def launch(dims: tuple[int, ...], dtype: torch.dtype, rows: int) -> None:
    (dim,) = dims
    q, k, v = torch.empty(rows, 3, _HEADS, dim, dtype=dtype, device="meta").unbind(1)
    bounds = torch.empty(rows + 1, dtype=torch.int32, device="meta")
    IMPLS["triton"](q, k, v, bounds)
    IMPLS["triton"](q, k, v, bounds, bounds[1:])
