"""Repeat the rows of a packed tensor: row i appears counts[i] times.

x [total, dim], counts int64 [total]  →  [Σ counts, dim]
"""

from __future__ import annotations

import torch

from seamless_kernels.dispatch import backend_for


def upsample(x: torch.Tensor, counts: torch.Tensor, output_size: int) -> torch.Tensor:
    """`output_size` is Σ counts, which the caller has read back once for all its segments."""
    return IMPLS[backend_for(x.device, IMPLS)](x, counts, output_size)


def reference(x: torch.Tensor, counts: torch.Tensor, output_size: int) -> torch.Tensor:
    return torch.repeat_interleave(x, counts, dim=0, output_size=output_size)


IMPLS = {"torch": reference}
