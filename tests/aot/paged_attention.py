"""The launches of paged_attention: without and with split-KV, self and cross."""

from __future__ import annotations

import torch

from seamless_kernels.paged_attention import IMPLS

COUNTS = ("chunks",)
SCHEDULING = ("SPLIT_KV", "_combine_kernel")


def launch(dims: tuple[int, ...], dtype: torch.dtype, rows: int) -> None:
    beams, dim = dims
    q = torch.empty(rows, 16, dim, dtype=dtype, device="meta")
    pool = q.new_empty(100_000, 16, dim)
    lengths, bounds = (torch.empty(count, dtype=torch.int32, device="meta") for count in (rows, rows + 1))
    for width in (258, 1026):
        table = lengths.new_empty(rows, width)
        if beams == 1:
            IMPLS["triton"](q, pool, pool, table, lengths, None, lengths)
        else:
            IMPLS["triton"](q, pool, pool, table, lengths, bounds)
