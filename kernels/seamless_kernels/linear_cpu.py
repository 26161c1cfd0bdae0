"""`linear` on a CPU: a row's bits do not depend on how many rows are computed with it.

The compiled product (csrc/linear_isa.h) has an order of sums of its own, which the reduction's length alone decides.
Without it the product is torch's, of CHUNK rows at a time: a library sees the same shape at the same alignment,
however many rows there are. Whether it then treats all places of a chunk alike is checked once for each shape; where
it does not, rows are taken one by one. Integer sums are exact in any order.
"""

from __future__ import annotations

import functools
import logging
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F

from seamless_kernels.int8 import LARGEST, Int8, quantize_rows
from seamless_kernels.native import csrc

Activation = Literal["relu", "silu", "glu"]

CHUNK = 32  # rows of a product of torch; rows × columns is then whole vector registers
_PANEL = 16  # columns of a panel of the compiled product
_BLOCK = 32767  # elements, at most, that torch never splits over threads
_FORMATS = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackedWeight:
    """A matrix [out, in] as the compiled product reads it. panels: [⌈out / 16⌉, in, 16], zeros beyond `out`."""

    panels: torch.Tensor
    out: int

    def __len__(self) -> int:
        return self.out

    @property
    def dtype(self) -> torch.dtype:
        return self.panels.dtype

    @property
    def nbytes(self) -> int:
        return self.panels.nbytes


def pack(weight: torch.Tensor) -> PackedWeight:
    """`weight` [out, in], of at least one row and column."""
    panels = F.pad(weight, (0, 0, 0, -len(weight) % _PANEL)).unflatten(0, (-1, _PANEL)).transpose(1, 2)
    return PackedWeight(panels.contiguous(), len(weight))


def product(
    x: torch.Tensor,
    weight: PackedWeight,
    bias: torch.Tensor | None = None,
    *,
    activation: Activation | None = None,
    residual: torch.Tensor | None = None,
    scale: float = 1.0,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """`linear` with a weight that `pack` made, in x's dtype; rounded once, at the end."""
    assert csrc is not None
    dtype = out_dtype or x.dtype
    columns = len(weight) // 2 if activation == "glu" else len(weight)
    y = torch.empty(len(x), columns, dtype=dtype, device=x.device)
    if not len(x):
        return y
    csrc.linear(
        _array(dense(x)),
        _array(weight.panels),
        len(weight),
        None if bias is None else bias.float().numpy(),
        None if residual is None else _array(dense(residual.to(dtype))),
        _array(y),
        _FORMATS[x.dtype],
        _FORMATS[dtype],
        activation or "",
        scale,
        torch.get_num_threads(),
    )
    return y


def _array(tensor: torch.Tensor) -> Any:
    """A view for csrc/; NumPy has no bfloat16, so 16 bits go as integers."""
    return tensor.numpy() if tensor.dtype == torch.float32 else tensor.view(torch.int16).numpy()


def dense(x: torch.Tensor) -> torch.Tensor:
    """x with a stride of 1 along its columns; rows may be any distance apart."""
    return x if x.stride(1) == 1 else x.contiguous()


def product_by_chunks(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x · Wᵀ + b by torch, with rows up to a multiple of CHUNK; those behind the last of x have no meaning."""
    step = _rows_at_a_time(weight)
    rows = len(x) + -len(x) % CHUNK
    y = torch.empty(rows, len(weight), dtype=x.dtype, device=x.device)
    chunk = torch.empty(step, x.shape[1], dtype=x.dtype, device=x.device)
    for first in range(0, len(x), step):
        part = x[first : first + step]
        chunk[: len(part)] = part
        chunk[len(part) :] = 0
        y[first : first + step] = F.linear(chunk, weight, bias)
    return y


_checked: dict[tuple[object, ...], int] = {}


def _rows_at_a_time(weight: torch.Tensor) -> int:
    """CHUNK where all places of a chunk give a row the same bits, which libraries have and do not promise; else 1."""
    key = (*weight.shape, weight.dtype, torch.get_num_threads())
    if key not in _checked:
        generator = torch.Generator().manual_seed(0)
        row = torch.randn(weight.shape[1], generator=generator, dtype=torch.float32, device="cpu").to(weight.dtype)
        y = F.linear(row.repeat(CHUNK, 1), weight)
        y = y.nan_to_num()  # of weights that are not finite
        alike = torch.equal(y, y[:1].expand_as(y))
        _checked[key] = CHUNK if alike else 1
        if not alike:
            _log.warning("torch's product with a matrix %s is not alike for all rows: rows go one by one", key)
    return _checked[key]


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
    unit = 1 if activation in (None, "relu") else CHUNK  # see _activate
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
    """By blocks of rows that one thread takes in whole vector registers, because torch's exp has other bits in the tail
    of what a thread takes; where rows are too long for that, row by row, each with the same tail."""
    if activation == "relu":
        return y.relu_()
    rows, columns = y.shape
    out = torch.empty(rows, columns // 2 if activation == "glu" else columns, dtype=y.dtype, device=y.device)
    whole = 32 // math.gcd(columns, 32)  # rows that are whole vectors, with every instruction set
    step = _BLOCK // columns // whole * whole or 1 if y.device.type == "cpu" else max(rows, 1)
    for start in range(0, rows, step):
        block = y[start : start + step]
        out[start : start + step] = F.glu(block, dim=-1) if activation == "glu" else F.silu(block)
    return out
