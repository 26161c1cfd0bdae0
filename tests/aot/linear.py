"""The launches of linear: an epilogue with everything, a gate, and float32 out of 16 bit."""

from __future__ import annotations

import torch

from seamless_kernels.linear import IMPLS

MATRIX = ("_product_kernel",)
COUNTS = ("rows",)
SCHEDULING = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "SPLIT", "num_warps", "num_stages", "_sum_kernel")


def launch(dims: tuple[int, ...], dtype: torch.dtype, rows: int) -> None:
    columns, inner = dims
    x = torch.empty(rows, inner, dtype=dtype, device="meta")
    weight, bias = torch.empty(columns, inner, dtype=dtype, device="meta"), x.new_empty(columns)
    residual = x.new_empty(rows, columns)
    IMPLS["triton"](x, weight, bias, activation="silu", residual=residual, scale=0.5)
    IMPLS["triton"](x, weight, bias, activation="glu")
    IMPLS["triton"](x, weight, out_dtype=torch.float32)
