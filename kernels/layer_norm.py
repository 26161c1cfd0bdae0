"""LayerNorm with the scaled residual in front: s = residual + scale · x;  y = (s − mean) / sqrt(var + eps) · w + b.

    x, residual [rows, dim], w, b [dim]  →  y, s [rows, dim]

Statistics are biased (divided by dim) and in float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from seamless_kernels.dispatch import backend_for


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """LayerNorm of x [rows, dim] over its last dimension."""
    return IMPLS[backend_for(x, IMPLS)](x, weight, bias, eps)[0]


def add_layer_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float = 1e-5,
    *,
    residual: torch.Tensor,
    scale: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(LayerNorm(residual + scale · x), residual + scale · x), both [rows, dim]."""
    return IMPLS[backend_for(x, IMPLS)](x, weight, bias, eps, residual, scale)


def reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float = 1e-5,
    residual: torch.Tensor | None = None,
    scale: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    if residual is not None:
        x = residual + (x * scale if scale != 1.0 else x)
    return F.layer_norm(x, (x.shape[-1],), weight, bias, eps), x


IMPLS = {"torch": reference}
