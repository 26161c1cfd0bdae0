"""The launches of residual_block: the first and the last of several blocks."""

from __future__ import annotations

import torch

from seamless_kernels.residual_block import IMPLS, pack_residual_block

MATRIX = ("_kernel",)
COUNTS = ("segments", "windows")
SCHEDULING = ("space", "step")


def launch(dims: tuple[int, ...], dtype: torch.dtype, rows: int) -> None:
    (dim,) = dims
    x = torch.empty(rows, dim, dtype=dtype, device="meta")
    weights, biases = pack_residual_block([x.new_empty(dim, dim, 11)] * 6), x.new_empty(6, dim)
    bounds = torch.empty(2 + rows // 500, dtype=torch.int32, device="meta")
    IMPLS["triton"](x, weights, biases, bounds, dilations=(1, 3, 5), leaky_slope=0.1)
    IMPLS["triton"](x, weights, biases, bounds, dilations=(1, 3, 5), leaky_slope=0.1, total=x, scale=1 / 3)
