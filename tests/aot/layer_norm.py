"""The launches of layer_norm: alone and after a residual."""

from __future__ import annotations

import torch

from seamless_kernels.layer_norm import IMPLS


def launch(dims: tuple[int, ...], dtype: torch.dtype, rows: int) -> None:
    (dim,) = dims
    x, weight = torch.empty(rows, dim, dtype=dtype, device="meta"), torch.empty(dim, dtype=dtype, device="meta")
    IMPLS["triton"](x, weight, weight)
    IMPLS["triton"](x, weight, weight, residual=x, scale=0.5)
