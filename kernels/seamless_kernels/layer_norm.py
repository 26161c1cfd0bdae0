"""LayerNorm with the scaled residual in front: s = residual + scale · x;  y = (s − mean) / sqrt(var + eps) · w + b.

    x, residual [rows, dim], w, b [dim]  →  y, s [rows, dim]

Statistics are biased (divided by dim) and in float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from seamless_kernels.config import config_for
from seamless_kernels.dispatch import backend_for
from seamless_kernels.jit import jit, tl, triton

_LARGEST = 8192  # columns: a program holds a whole row in registers


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
    x_stride,
    residual_stride,
    scale,
    eps,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    ADD: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < DIM
    value = tl.load(x_ptr + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        residual = tl.load(residual_ptr + row * residual_stride + columns, mask=inside, other=0.0).to(tl.float32)
        value = residual + scale * value
        tl.store(sum_ptr + row * DIM + columns, value.to(sum_ptr.dtype.element_ty), mask=inside)
    mean = tl.sum(value, axis=0) / DIM
    centred = tl.where(inside, value - mean, 0.0)
    variance = tl.sum(centred * centred, axis=0) / DIM
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    y = centred * tl.rsqrt(variance + eps) * weight + bias
    tl.store(y_ptr + row * DIM + columns, y.to(y_ptr.dtype.element_ty), mask=inside)


def _triton(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float = 1e-5,
    residual: torch.Tensor | None = None,
    scale: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    rows, dim = x.shape
    x = _rows_of_columns(x)
    add = residual is not None
    residual = _rows_of_columns(residual) if add else x
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    total = torch.empty_like(y) if add else x
    if rows:
        _kernel[(rows,)](
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
            BLOCK=triton.next_power_of_2(dim),
            ADD=add,
            **config_for("layer_norm", (dim,), x.dtype, x.device),
        )
    return y, total


def _rows_of_columns(x: torch.Tensor) -> torch.Tensor:
    """x with a stride of 1 along its columns; rows may be any distance apart."""
    return x if x.stride(1) == 1 else x.contiguous()


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """LayerNorm of x [rows, dim] over its last dimension."""
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
    """(LayerNorm(residual + scale · x), residual + scale · x), both [rows, dim]."""
    return _implementation(x)(x, weight, bias, eps, residual, scale)


def _implementation(x: torch.Tensor):
    name = backend_for(x.device, IMPLS)
    return reference if name == "triton" and x.shape[-1] > _LARGEST else IMPLS[name]


IMPLS = {"torch": reference, "triton": _triton}
