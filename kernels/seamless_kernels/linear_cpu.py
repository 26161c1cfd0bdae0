"""`linear` on a CPU, batch-invariant.

The product of csrc/ops/linear_isa.h has an order of sums that depends on the length of the reduction alone. Without
csrc torch multiplies CHUNK rows at a time, so that its library always sees one shape and one alignment. Whether the
library then gives a row the same bits at all places of a chunk is checked once for each shape; where it does not, rows
are multiplied one by one. Integer sums are exact in any order.
"""

from __future__ import annotations

import functools
import logging
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F

from seamless_kernels.int8 import LARGEST, Int8Weight, quantize_rows
from seamless_kernels.layout import unit_stride
from seamless_kernels.native import csrc

Activation = Literal["relu", "silu", "glu"]

CHUNK = 32  # rows of a product of torch: chunks then fill vector registers, whatever the columns
_PANEL = 16  # output channels of a panel of csrc
_BLOCK = 32767  # elements that torch never splits over threads
_FORMATS = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackedWeight:
    """A matrix [out, in] as csrc reads it. panels: [⌈out / 16⌉, in, 16], zeros beyond `out`."""

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
        _array(unit_stride(x)),
        _array(weight.panels),
        len(weight),
        None if bias is None else bias.float().numpy(),
        None if residual is None else _array(unit_stride(residual.to(dtype))),
        _array(y),
        _FORMATS[x.dtype],
        _FORMATS[dtype],
        activation or "",
        scale,
        torch.get_num_threads(),
    )
    return y


def _array(tensor: torch.Tensor) -> Any:
    """A NumPy view for csrc. NumPy has no bfloat16: 16-bit numbers are passed as int16."""
    return tensor.numpy() if tensor.dtype == torch.float32 else tensor.view(torch.int16).numpy()


def product_by_chunks(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x · Wᵀ + b by torch, padded to a multiple of CHUNK rows; those beyond the rows of x are undefined."""
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


# By shape, dtype and threads: what `_rows_at_a_time` found.
chunk_rows: dict[tuple[object, ...], int] = {}


def _rows_at_a_time(weight: torch.Tensor) -> int:
    """CHUNK if a row has the same bits at all places of a chunk, which libraries do not guarantee; else 1."""
    key = (*weight.shape, weight.dtype, torch.get_num_threads())
    if key not in chunk_rows:
        generator = torch.Generator().manual_seed(0)
        row = torch.randn(weight.shape[1], generator=generator, dtype=torch.float32, device="cpu").to(weight.dtype)
        y = F.linear(row.repeat(CHUNK, 1), weight)
        y = y.nan_to_num()  # where the weight is not finite
        invariant = torch.equal(y, y[:1].expand_as(y))
        chunk_rows[key] = CHUNK if invariant else 1
        if not invariant:
            _log.warning("torch's product with a matrix %s depends on the place of a row: rows go one by one", key)
    return chunk_rows[key]


def pack_int8(weight: Int8Weight) -> Int8Weight:
    """`weight` with its values in oneDNN's layout, or unchanged where oneDNN's int8 sums are not exact."""
    return Int8Weight(_reorder_int8(weight.values), weight.scale) if int8_sums_are_exact() else weight


def product_int8(
    x: torch.Tensor,
    weight: Int8Weight,
    bias: torch.Tensor | None = None,
    *,
    activation: Activation | None = None,
    residual: torch.Tensor | None = None,
    scale: float = 1.0,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """`linear` with an int8 weight, in oneDNN's layout or not."""
    rows = x.shape[0]
    unit = 1 if activation in (None, "relu") else CHUNK  # see _activate
    values, row_scale = quantize_rows(pad_rows(x, unit))
    multiply = _onednn_int8 if weight.values.is_mkldnn else _int8_by_float32
    y = multiply(values, weight.values, weight.scale).mul_(row_scale[:, None])
    y = y if bias is None else y.add_(bias)
    return finish(y, rows, activation, residual, scale).to(out_dtype or x.dtype)


def _onednn_int8(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """(x · Wᵀ) · scale, of x int8 [rows, in]; float32, rounded twice."""
    # The instruction takes unsigned numbers: x + 128, which oneDNN subtracts again.
    offset = x.view(torch.uint8) ^ 128
    return torch.ops.onednn.qlinear_pointwise(
        offset, 1.0, 128, weight, scale, _zeros(len(scale)), None, 1.0, 0, torch.float32, "none", [], ""
    )


@functools.cache
def _zeros(count: int) -> torch.Tensor:
    """Zero points, which oneDNN asks for."""
    return torch.zeros(count, dtype=torch.int64)


def _int8_by_float32(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The same by float32 products, whose sums are exact up to 2^24."""
    step = (1 << 24) // LARGEST**2
    total = torch.zeros(len(x), len(weight), dtype=torch.int32, device=x.device)
    for top in range(0, len(weight), 4096):  # not the whole weight: a float32 copy is four times its size
        columns = slice(top, top + 4096)
        for first in range(0, x.shape[1], step):
            part = slice(first, first + step)
            total[:, columns] += F.linear(x[:, part].float(), weight[columns, part].float()).int()
    return total.float().mul_(scale)


def _reorder_int8(values: torch.Tensor) -> torch.Tensor:
    return torch.ops.onednn.qlinear_prepack(values, None)


@functools.cache
def int8_sums_are_exact() -> bool:
    """Without VNNI a processor adds pairs of int8 products in int16, which saturates."""
    if not torch.backends.mkldnn.is_available():
        return False
    x, weight = torch.full((3, 80), LARGEST, dtype=torch.int8), torch.full((32, 80), LARGEST, dtype=torch.int8)
    weight[1::2] = -LARGEST
    x[1], x[2, ::2] = -LARGEST, 1
    scale = torch.ones(len(weight), dtype=torch.float32)
    return torch.equal(_onednn_int8(x, _reorder_int8(weight), scale), _int8_by_float32(x, weight, scale))


def pad_rows(x: torch.Tensor, unit: int) -> torch.Tensor:
    """x, zero-padded to a multiple of `unit` rows."""
    missing = -x.shape[0] % unit
    return F.pad(x, (0, 0, 0, missing)) if missing else x.contiguous()


def finish(
    y: torch.Tensor, rows: int, activation: Activation | None, residual: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """residual + scale · activation(y) of the first `rows` rows of a padded product."""
    if activation is not None:
        y = _activate(y, activation)
    y = y[:rows]
    if scale != 1.0:
        y = y * scale
    return y if residual is None else residual + y


def _activate(y: torch.Tensor, activation: Activation) -> torch.Tensor:
    """In blocks of rows that one thread computes in full vector registers: torch's exp has other bits for the elements
    at the end of a thread's share. Rows that are too long for that are computed one by one."""
    if activation == "relu":
        return y.relu_()
    rows, columns = y.shape
    out = torch.empty(rows, columns // 2 if activation == "glu" else columns, dtype=y.dtype, device=y.device)
    unit = 32 // math.gcd(columns, 32)  # rows that fill vectors, with every instruction set
    step = _BLOCK // columns // unit * unit or 1 if y.device.type == "cpu" else max(rows, 1)
    for start in range(0, rows, step):
        block = y[start : start + step]
        out[start : start + step] = F.glu(block, dim=-1) if activation == "glu" else F.silu(block)
    return out
