"""The CPU's way of `linear`: a row's bits do not depend on how many rows are computed with it.

That holds when rows come in multiples of 16 (other products are split along the reduction, or end in another kernel)
and when activations run over whole vector registers in one thread (the tail of a tensor goes through another `exp`):
hence padding and blocks. oneDNN takes a weight that was re-ordered at load, and often needs no padding.
"""

from __future__ import annotations

import functools
from typing import Literal

import torch
import torch.nn.functional as F

from seamless_kernels.int8 import LARGEST, Int8, quantize_rows

Activation = Literal["relu", "silu", "glu"]

ROWS = 16
_BLOCK = 32768  # elements; torch never splits fewer over threads


def pack(weight: torch.Tensor) -> torch.Tensor:
    """`weight` [out, in] in oneDNN's layout, or as it is where oneDNN does not take it."""
    if not _onednn_takes(weight):
        return weight.contiguous()
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
    key = _unit_key(packed)
    if key not in _units:
        _units[key] = 1 if _rows_are_independent(packed) else ROWS
    return packed


def product(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    activation: Activation | None = None,
    residual: torch.Tensor | None = None,
    scale: float = 1.0,
) -> torch.Tensor:
    """`linear` with a weight that `pack` re-ordered; ReLU and SiLU run inside oneDNN."""
    rows = x.shape[0]
    inside = {"relu": "relu", "silu": "swish"}.get(activation or "", "none")
    unit = ROWS if activation == "glu" else _units.get(_unit_key(weight), ROWS)
    y = torch.ops.mkldnn._linear_pointwise(pad_rows(x, unit), weight, bias, inside, [], "")
    return finish(y, rows, "glu" if activation == "glu" else None, residual, scale)


def pack_int8(weight: Int8) -> Int8:
    """`weight` with its values in oneDNN's layout, or as it is where oneDNN's sums of 8 bits are not exact."""
    return Int8(_reorder_int8(weight.values), weight.scale) if _sums_are_exact() else weight


def product_int8(
    x: torch.Tensor,
    weight: Int8,
    bias: torch.Tensor | None = None,
    *,
    activation: Activation | None = None,
    residual: torch.Tensor | None = None,
    scale: float = 1.0,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """`linear` with a weight in 8 bits, that `pack_int8` re-ordered or not."""
    rows = x.shape[0]
    # so that rows × columns is a multiple of 32, as in `reference`
    unit = 1 if activation in (None, "relu") else ROWS * (1 + len(weight) % 2)
    values, row_scale = quantize_rows(pad_rows(x, unit))
    multiply = _onednn_int8 if weight.values.is_mkldnn else _whole_float32
    y = multiply(values, weight.values, weight.scale).mul_(row_scale[:, None])
    y = y if bias is None else y.add_(bias)
    return finish(y, rows, activation, residual, scale).to(out_dtype or x.dtype)


def _onednn_int8(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """(x · Wᵀ) · scale, of x int8 [rows, in]; float32, rounded twice."""
    # What the instruction takes is unsigned: x + 128, which oneDNN subtracts again.
    offset = x.view(torch.uint8) ^ 128
    return torch.ops.onednn.qlinear_pointwise(
        offset, 1.0, 128, weight, scale, _zeros(len(scale)), None, 1.0, 0, torch.float32, "none", [], ""
    )


@functools.cache
def _zeros(count: int) -> torch.Tensor:
    """The zero points of a weight that has none."""
    return torch.zeros(count, dtype=torch.int64)


def _whole_float32(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The same by products in float32, whose sums are exact up to 2^24."""
    step = (1 << 24) // LARGEST**2
    total = torch.zeros(len(x), len(weight), dtype=torch.int32, device=x.device)
    for top in range(0, len(weight), 4096):  # a float32 copy of the whole weight would be what 8 bits are to spare
        columns = slice(top, top + 4096)
        for first in range(0, x.shape[1], step):
            part = slice(first, first + step)
            total[:, columns] += F.linear(x[:, part].float(), weight[columns, part].float()).int()
    return total.float().mul_(scale)


def _reorder_int8(values: torch.Tensor) -> torch.Tensor:
    return torch.ops.onednn.qlinear_prepack(values, None)


@functools.cache
def _sums_are_exact() -> bool:
    """Without instructions for 8 bits a processor adds pairs of products in 16, which the largest do not fit."""
    if not torch.backends.mkldnn.is_available():
        return False
    x, weight = torch.full((3, 80), LARGEST, dtype=torch.int8), torch.full((32, 80), LARGEST, dtype=torch.int8)
    weight[1::2] = -LARGEST
    x[1], x[2, ::2] = -LARGEST, 1
    scale = torch.ones(len(weight), dtype=torch.float32)
    return torch.equal(_onednn_int8(x, _reorder_int8(weight), scale), _whole_float32(x, weight, scale))


def pad_rows(x: torch.Tensor, unit: int) -> torch.Tensor:
    """x with zeros below it up to a multiple of `unit` rows."""
    missing = -x.shape[0] % unit
    return F.pad(x, (0, 0, 0, missing)) if missing else x.contiguous()


def finish(
    y: torch.Tensor, rows: int, activation: Activation | None, residual: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """residual + scale · activation(y), of the first `rows` rows of a padded product."""
    if activation is not None:
        y = _activate(y, activation)
    y = y[:rows]
    if scale != 1.0:
        y = y * scale
    return y if residual is None else residual + y


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


def _onednn_takes(weight: torch.Tensor) -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.dtype == torch.float32
