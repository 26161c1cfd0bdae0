"""The epilogue of `linear`, by torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def finished(y: torch.Tensor, activation: str | None, scale: float, residual: torch.Tensor | None) -> torch.Tensor:
    """residual + scale · activation(y) in y's dtype."""
    match activation:
        case "relu":
            y = y.relu()
        case "silu":
            y = F.silu(y)
        case "glu":
            y = F.glu(y, dim=-1)
    y = y * scale
    return y if residual is None else residual.to(y.dtype) + y
