"""LayerNorm with the scaled residual in front: s = residual + scale · x;  y = (s − mean) / sqrt(var + eps) · w + b.

    x, residual [tokens, dim], w, b [dim]  →  y, s [tokens, dim]

Statistics are biased (divided by dim) and in float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from seamless_kernels.config import config_for
from seamless_kernels.dispatch import backend_for
from seamless_kernels.jit import jit, tl, triton
from seamless_kernels.layout import unit_stride

_MAX_DIM = 8192  # a program holds a token in registers


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


@jit
def _kernel(
    x_ptr,
    residual_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    sum_ptr,
    stride_xm,
    stride_rm,
    scale,
    eps,
    DIM: tl.constexpr,
    BLOCK_N: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    offs_n = tl.arange(0, BLOCK_N)
    n_mask = offs_n < DIM
    x = tl.load(x_ptr + token * stride_xm + offs_n, mask=n_mask, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        residual = tl.load(residual_ptr + token * stride_rm + offs_n, mask=n_mask, other=0.0).to(tl.float32)
        x = residual + scale * x
        tl.store(sum_ptr + token * DIM + offs_n, x.to(sum_ptr.dtype.element_ty), mask=n_mask)
    mean = tl.sum(x, axis=0) / DIM
    centered = tl.where(n_mask, x - mean, 0.0)
    variance = tl.sum(centered * centered, axis=0) / DIM
    weight = tl.load(weight_ptr + offs_n, mask=n_mask, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + offs_n, mask=n_mask, other=0.0).to(tl.float32)
    y = centered * tl.rsqrt(variance + eps) * weight + bias
    tl.store(y_ptr + token * DIM + offs_n, y.to(y_ptr.dtype.element_ty), mask=n_mask)


def _triton(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float = 1e-5,
    residual: torch.Tensor | None = None,
    scale: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    tokens, dim = x.shape
    x = unit_stride(x)
    add = residual is not None
    residual = unit_stride(residual) if add else x
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    total = torch.empty_like(y) if add else x
    if tokens:
        _kernel[(tokens,)](
            x,
            residual,
            weight,
            bias,
            y,
            total,
            x.stride(0),
            residual.stride(0),
            scale,
            eps,
            DIM=dim,
            BLOCK_N=triton.next_power_of_2(dim),
            HAS_RESIDUAL=add,
            **config_for("layer_norm", (dim,), x.dtype, x.device),
        )
    return y, total


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """LayerNorm of x [tokens, dim] over its last dimension."""
    return _implementation(x)(x, weight, bias, eps)[0]


def add_layer_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float = 1e-5,
    *,
    residual: torch.Tensor,
    scale: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(LayerNorm(residual + scale · x), residual + scale · x), both [tokens, dim]."""
    return _implementation(x)(x, weight, bias, eps, residual, scale)


def _implementation(x: torch.Tensor):
    name = backend_for(x.device, IMPLS)
    return reference if name == "triton" and x.shape[-1] > _MAX_DIM else IMPLS[name]


IMPLS = {"torch": reference, "triton": _triton}
