"""Products in 8 bits: a weight with a scale for each of its outputs, x with one for each of its rows, made as it comes.

    scale = max |W[out]| / 127,  Q = round(W[out] / scale)           of x likewise, by rows
    x · Wᵀ ≈ (Q_x · Qᵀ) · scale[out] · scale_x[row]

Q_x · Qᵀ are whole numbers, exact in whatever order they are added up. So a row's bits do not depend on what is beside
it, and neither on the device but for the epilogue. A row of x with a NaN or an infinity has a scale that is none, and
so has all of its results: they are NaN or infinite, as they are in any other precision or sooner.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from seamless_kernels.dispatch import backend_for
from seamless_kernels.jit import jit, tl
from seamless_kernels.native import csrc

LARGEST = 127  # −128 is not used: the range is symmetric
_LEAST = 2.0**-126  # of a scale: below, a quotient would not be exact to half a step. Such a row becomes zeros.
_BLOCK = 1024


@dataclass(frozen=True)
class Int8:
    """A matrix [out, in] in 8 bits. values: int8, as `linear` reads them on their device; scale: float32 [out]."""

    values: torch.Tensor
    scale: torch.Tensor

    def __len__(self) -> int:
        return len(self.scale)

    @property
    def nbytes(self) -> int:
        return self.values.numel() + self.scale.nbytes


def reference(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.float()
    scale = x.abs().amax(1) / LARGEST
    scale = torch.where(scale < _LEAST, 1.0, scale)
    return (x / scale[:, None]).round_().to(torch.int8), scale


@jit
def _kernel(x_ptr, values_ptr, scale_ptr, inner, x_stride, LEAST: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * x_stride
    values_ptr += row * inner
    column = tl.arange(0, BLOCK)
    largest = tl.zeros([BLOCK], tl.float32)
    for start in range(0, inner, BLOCK):
        x = tl.abs(tl.load(x_ptr + start + column, mask=start + column < inner, other=0.0).to(tl.float32))
        largest = tl.where((x > largest) | (x != x), x, largest)  # a NaN is not exceeded
    known = tl.sum((largest != largest).to(tl.int32), 0) == 0
    scale = tl.where(known, tl.div_rn(tl.max(largest, 0), 127.0), float("nan"))
    scale = tl.where(scale < LEAST, 1.0, scale)
    tl.store(scale_ptr + row, scale)
    for start in range(0, inner, BLOCK):
        mask = start + column < inner
        x = tl.div_rn(tl.load(x_ptr + start + column, mask=mask, other=0.0).to(tl.float32), scale)
        whole = (x + 12582912.0) - 12582912.0  # 1.5 · 2^23: rounds, halves to even
        tl.store(values_ptr + start + column, whole.to(tl.int8), mask=mask)


def _triton(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rows, inner = x.shape
    x = x if x.stride(1) == 1 else x.contiguous()
    values = torch.empty(rows, inner, dtype=torch.int8, device=x.device)
    scale = torch.empty(rows, dtype=torch.float32, device=x.device)
    if rows:
        _kernel[(rows,)](
            x, values, scale, inner, x.stride(0), LEAST=_LEAST, BLOCK=_BLOCK, num_warps=4, enable_fp_fusion=False
        )
    return values, scale


def _native(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    assert csrc is not None
    x = x.float()
    x = x if x.stride(1) == 1 else x.contiguous()
    values, scale = torch.empty(x.shape, dtype=torch.int8), torch.empty(len(x), dtype=torch.float32)
    if len(x):
        csrc.quantize_rows(x.numpy(), values.numpy(), scale.numpy(), torch.get_num_threads())
    return values, scale


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x [rows, in] → int8 [rows, in] and float32 [rows], of which x ≈ int8 · scale. A row of zeros has the scale 1."""
    return IMPLS[backend_for(x.device, IMPLS)](x)


IMPLS = {"torch": reference, "triton": _triton} | ({"native": _native} if csrc else {})
