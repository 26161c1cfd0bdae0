"""The launches of conv1d: a full epilogue, none, and one output channel."""

from __future__ import annotations

from typing import Any

import torch

from seamless_kernels.conv1d import IMPLS, pack_conv_weight

MATRIX = ("_kernel",)
COUNTS = ("segments",)
SCHEDULING = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps", "num_stages")


def launch(dims: tuple[int, ...], dtype: torch.dtype, rows: int) -> None:
    columns, inner = dims
    x = torch.empty(rows, inner, dtype=dtype, device="meta")
    weight: Any = pack_conv_weight(x.new_empty(columns, inner, 7))  # a tensor on this device
    bias = x.new_empty(columns)
    bounds = torch.empty(2 + rows // 500, dtype=torch.int32, device="meta")
    IMPLS["triton"](x, weight, bias, bounds, dilation=3, leaky_slope=0.1, residual=x.new_empty(rows, columns))
    IMPLS["triton"](x, weight, bias, bounds)
    if dtype == torch.float32 and inner == 16:
        IMPLS["triton"](x, weight[:1], bias[:1], bounds, leaky_slope=0.01)
