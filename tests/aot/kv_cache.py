"""The launch of kv_cache: heads of 64, keys and values as views of one product."""

from __future__ import annotations

import torch

from seamless_kernels.kv_cache import IMPLS

COUNTS = {"tokens"}


def launch(dims: tuple[int, ...], dtype: torch.dtype, rows: int) -> None:
    heads = dims[0] // 64
    k, v = torch.empty(rows, 2, heads, 64, dtype=dtype, device="meta").unbind(1)
    pool = torch.empty(100_000, heads, 64, dtype=dtype, device="meta")
    IMPLS["triton"](k, v, pool, pool, torch.empty(rows, dtype=torch.int64, device="meta"))
