"""The launches of top_candidates: without and with banned tokens."""

from __future__ import annotations

import torch

from seamless_kernels.top_candidates import IMPLS

DTYPES = (torch.float32,)
COUNTS = ("num_banned",)


def launch(dims: tuple[int, ...], dtype: torch.dtype, rows: int) -> None:
    vocab, count = dims
    logits = torch.empty(rows, vocab, dtype=dtype, device="meta")
    IMPLS["triton"](logits, count)
    IMPLS["triton"](logits, count, torch.empty(rows, 3, dtype=torch.int64, device="meta"))
