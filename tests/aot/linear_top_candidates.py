"""The launches of linear_top_candidates: greedy, beams, and a list of banned tokens."""

from __future__ import annotations

import torch

from seamless_kernels.linear_top_candidates import IMPLS

MATRIX = ("_product_kernel",)
COUNTS = ("M", "num_banned", "span", "size")
SCHEDULING = ("BLOCK_M", "BLOCK_K", "num_warps", "num_stages", "SIZE")


def launch(dims: tuple[int, ...], dtype: torch.dtype, rows: int) -> None:
    vocab, inner = dims
    hidden = torch.empty(rows, inner, dtype=dtype, device="meta")
    weight = hidden.new_empty(vocab, inner)
    IMPLS["triton"](hidden, weight, 2)
    IMPLS["triton"](hidden, weight, 10, torch.empty(rows, 3, dtype=torch.int64, device="meta"))
