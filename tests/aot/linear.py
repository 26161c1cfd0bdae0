"""The launches of linear: a full epilogue, GLU, and a float32 result; the same with an int8 weight."""

from __future__ import annotations

import torch

from seamless_kernels.int8 import IMPLS as quantize
from seamless_kernels.int8 import Int8Weight
from seamless_kernels.linear import IMPLS

MATRIX = ("_product_kernel",)
COUNTS = ("M",)
SCHEDULING = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "SPLIT_K", "num_warps", "num_stages", "_sum_kernel")


def launch(dims: tuple[int, ...], dtype: torch.dtype, rows: int) -> None:
    columns, inner = dims
    x = torch.empty(rows, inner, dtype=dtype, device="meta")
    weight, bias = torch.empty(columns, inner, dtype=dtype, device="meta"), x.new_empty(columns)
    residual = x.new_empty(rows, columns)
    quantized = Int8Weight(
        weight.new_empty(columns, inner, dtype=torch.int8), weight.new_empty(columns, dtype=torch.float32)
    )
    quantize["triton"](x)
    for matrix in (weight, quantized):
        IMPLS["triton"](x, matrix, bias, activation="silu", residual=residual, scale=0.5)
        IMPLS["triton"](x, matrix, bias, activation="glu")
        IMPLS["triton"](x, matrix, out_dtype=torch.float32)
