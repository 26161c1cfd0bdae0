"""The launches of fbank: clips of two frames each, as many as fit into one transform."""

from __future__ import annotations

import torch

from seamless_kernels.fbank import IMPLS

DTYPES = (torch.float32,)
COUNTS = ("count",)


def launch(dims: tuple[int, ...], dtype: torch.dtype, rows: int) -> None:
    samples = 560 * min(rows, 2000)
    IMPLS["triton"](torch.empty(samples, dtype=dtype, device="meta"), range(0, samples + 1, 560))
