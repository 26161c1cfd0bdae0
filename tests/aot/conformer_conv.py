"""The launch of conformer_conv."""

from __future__ import annotations

import torch

from seamless_kernels.conformer_conv import IMPLS

COUNTS = {"segments"}


def launch(dims: tuple[int, ...], dtype: torch.dtype, rows: int) -> None:
    dim, taps = dims
    x, norm = torch.empty(rows, 2 * dim, dtype=dtype, device="meta"), torch.empty(dim, dtype=dtype, device="meta")
    weight = torch.empty(taps, dim, dtype=dtype, device="meta").T
    segments = 1 + rows // 500
    bounds = torch.empty(segments + 1, dtype=torch.int32, device="meta")
    valid = torch.empty(segments, dtype=torch.int32, device="meta")
    IMPLS["triton"](x, weight, norm, norm, bounds, valid)
