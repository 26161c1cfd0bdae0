"""The launches of rel_attention: q, k, v as views of one projection, the chunks of the published checkpoint."""

from __future__ import annotations

import torch

from seamless_kernels.rel_attention import IMPLS

MATRIX = ("_kernel",)
COUNTS = ("segments",)
_HEADS = 16


def launch(dims: tuple[int, ...], dtype: torch.dtype, rows: int) -> None:
    (dim,) = dims
    q, k, v = torch.empty(rows, 3, _HEADS, dim, dtype=dtype, device="meta").unbind(1)
    distances = torch.empty(73, dim, dtype=dtype, device="meta")
    bounds = torch.empty(rows + 1, dtype=torch.int32, device="meta")
    IMPLS["triton"](q, k, v, distances, bounds, bounds[1:], left=64, chunk_size=20_000, left_chunks=128)
