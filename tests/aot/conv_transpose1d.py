"""The launch of conv_transpose1d."""

from __future__ import annotations

import torch

from seamless_kernels.conv_transpose1d import IMPLS, pack_conv_transpose_weight

MATRIX = ("_kernel",)
COUNTS = ("segments",)


def launch(dims: tuple[int, ...], dtype: torch.dtype, rows: int) -> None:
    columns, inner = dims
    x = torch.empty(rows, inner, dtype=dtype, device="meta")
    weight, bias = pack_conv_transpose_weight(x.new_empty(inner, columns, 4)), x.new_empty(columns)
    bounds = torch.empty(2 + rows // 500, dtype=torch.int32, device="meta")
    IMPLS["triton"](x, weight, bias, bounds, stride=2, leaky_slope=0.1)
