"""upsample: every row as often as its count says."""

from __future__ import annotations

import torch

from seamless_kernels.upsample import upsample
from support.packed import normal


def test_upsample_repeats_rows() -> None:
    x = normal(4, 3)
    counts = torch.tensor([2, 0, 1, 3])
    assert torch.equal(upsample(x, counts, 6), x[[0, 0, 2, 3, 3, 3]])
