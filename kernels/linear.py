"""Matrix product with its epilogue: y = residual + scale · act(x · Wᵀ + b).

    x [rows, in], W [out, in], b [out]  →  y [rows, out];  act: none, ReLU, SiLU, or GLU, which halves `out`:
    GLU(a | g) = a · sigmoid(g), the two halves of the columns.

A row of the result does not depend on how many rows are computed with it. On a CPU that holds when rows come in
multiples of 16 (other products are split along the reduction, or end in another kernel) and when activations run over
whole vector registers in one thread (the tail of a tensor goes through another `exp`): hence padding and blocks.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

from seamless_kernels.dispatch import backend_for

Activation = Literal["relu", "silu", "glu"]

_ROWS = 16
_BLOCK = 32768  # elements; torch never splits fewer over threads


def pack_weight(weight: torch.Tensor) -> torch.Tensor:
    """`weight` [out, in] in the layout in which `linear` reads it fastest on its device. Done once, at load."""
    if backend_for(weight, IMPLS) == "onednn" and _onednn_takes(weight):
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
        key = _unit_key(packed)
        if key not in _units:
            _units[key] = 1 if _rows_are_independent(packed) else _ROWS
        return packed
    return weight.contiguous()


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    activation: Activation | None = None,
    residual: torch.Tensor | None = None,
    scale: float = 1.0,
) -> torch.Tensor:
    """residual + scale · activation(x · Wᵀ + bias), [rows, out] in x's dtype; `weight` as `pack_weight` left it."""
    name = "onednn" if weight.is_mkldnn else backend_for(x, {"torch": reference})
    return IMPLS[name](x, weight, bias, activation=activation, residual=residual, scale=scale)


def reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    activation: Activation | None = None,
    residual: torch.Tensor | None = None,
    scale: float = 1.0,
) -> torch.Tensor:
    rows = x.shape[0]
    # so that rows × columns is a multiple of 32, two vector registers
    y = F.linear(_pad_rows(x, _ROWS * (1 + weight.shape[0] % 2)), weight, bias)
    if activation is not None:
        y = _activate(y, activation)
    return _add_residual(y[:rows], residual, scale)


def _onednn(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    activation: Activation | None = None,
    residual: torch.Tensor | None = None,
    scale: float = 1.0,
) -> torch.Tensor:
    """The same product by oneDNN on a weight that was re-ordered at load; ReLU and SiLU run inside it."""
    rows = x.shape[0]
    inside = {"relu": "relu", "silu": "swish"}.get(activation or "", "none")
    unit = _ROWS if activation == "glu" else _units.get(_unit_key(weight), _ROWS)
    y = torch.ops.mkldnn._linear_pointwise(_pad_rows(x, unit), weight, bias, inside, [], "")
    if activation == "glu":
        y = _activate(y, activation)
    return _add_residual(y[:rows], residual, scale)


IMPLS = {"torch": reference, "onednn": _onednn}


# Rows that a product of a shape needs at least to give the bits that it gives with many, with a number of threads.
_units: dict[tuple[object, ...], int] = {}


def _unit_key(weight: torch.Tensor) -> tuple[object, ...]:
    return (*weight.shape, weight.dtype, torch.get_num_threads())


def _rows_are_independent(packed: torch.Tensor) -> bool:
    """Whether few rows give the bits of many: true of most shapes; oneDNN splits the reduction of the long ones."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(48, packed.shape[1], generator=generator).to(packed.dtype)
    many = torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    return all(
        torch.equal(torch.ops.mkldnn._linear_pointwise(x[:rows], packed, None, "none", [], ""), many[:rows])
        for rows in (1, 2, 3, 4, 5, 7, 8, 11, 15, 17, 31, 33, 47)
    )


def _pad_rows(x: torch.Tensor, unit: int) -> torch.Tensor:
    missing = -x.shape[0] % unit
    return F.pad(x, (0, 0, 0, missing)) if missing else x.contiguous()


def _activate(y: torch.Tensor, activation: Activation) -> torch.Tensor:
    if activation == "relu":
        return y.relu_()
    out = torch.empty(
        y.shape[0], y.shape[1] // 2 if activation == "glu" else y.shape[1], dtype=y.dtype, device=y.device
    )
    step = max(_BLOCK // y.shape[1] // 32, 1) * 32 if y.device.type == "cpu" else max(y.shape[0], 1)
    for start in range(0, y.shape[0], step):
        block = y[start : start + step]
        out[start : start + step] = F.glu(block, dim=-1) if activation == "glu" else F.silu(block)
    return out


def _add_residual(y: torch.Tensor, residual: torch.Tensor | None, scale: float) -> torch.Tensor:
    if scale != 1.0:
        y = y * scale
    return y if residual is None else residual + y


def _onednn_takes(weight: torch.Tensor) -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.dtype == torch.float32
