"""int8 quantization: weights by output channel, once at load; activations by row, at each call (dynamic).

    scale = max |W[out]| / 127,  Q = round(W[out] / scale)           and the same for the rows of x
    x · Wᵀ ≈ (Q_x · Qᵀ) · scale[out] · scale_x[row]

Sums of Q_x · Qᵀ are exact integers in any order. So the product is batch-invariant, and devices differ only by the
roundings of the epilogue. A row of x with a NaN or an infinity has a scale that is not finite, and so are its results.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from seamless_kernels.dispatch import backend_for
from seamless_kernels.jit import jit, tl
from seamless_kernels.layout import unit_stride
from seamless_kernels.native import csrc

LARGEST = 127  # −128 is not used: the range is symmetric
_MIN_SCALE = 2.0**-126  # below, quotients would be off by more than half a step; such a row becomes zeros
_BLOCK = 1024


@dataclass(frozen=True)
class Int8Weight:
    """A quantized matrix [out, in]. values: int8, as `linear` reads them on their device; scale: float32 [out]."""

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
    scale = torch.where(scale < _MIN_SCALE, 1.0, scale)
    return (x / scale[:, None]).round_().to(torch.int8), scale


@jit
def _kernel(x_ptr, q_ptr, scale_ptr, N, stride_xm, MIN_SCALE: tl.constexpr, BLOCK_N: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * stride_xm
    q_ptr += row * N
    offs_n = tl.arange(0, BLOCK_N)
    largest = tl.zeros([BLOCK_N], tl.float32)
    for start_n in range(0, N, BLOCK_N):
        x = tl.abs(tl.load(x_ptr + start_n + offs_n, mask=start_n + offs_n < N, other=0.0).to(tl.float32))
        largest = tl.where((x > largest) | (x != x), x, largest)  # a NaN stays: no number is greater
    finite = tl.sum((largest != largest).to(tl.int32), 0) == 0
    scale = tl.where(finite, tl.div_rn(tl.max(largest, 0), 127.0), float("nan"))
    scale = tl.where(scale < MIN_SCALE, 1.0, scale)
    tl.store(scale_ptr + row, scale)
    for start_n in range(0, N, BLOCK_N):
        mask = start_n + offs_n < N
        x = tl.div_rn(tl.load(x_ptr + start_n + offs_n, mask=mask, other=0.0).to(tl.float32), scale)
        q = (x + 12582912.0) - 12582912.0  # adding 1.5 · 2^23 rounds to an integer, halves to even
        tl.store(q_ptr + start_n + offs_n, q.to(tl.int8), mask=mask)


def _triton(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    M, N = x.shape
    x = unit_stride(x)
    values = torch.empty(M, N, dtype=torch.int8, device=x.device)
    scale = torch.empty(M, dtype=torch.float32, device=x.device)
    if M:
        _kernel[(M,)](
            x, values, scale, N, x.stride(0), MIN_SCALE=_MIN_SCALE, BLOCK_N=_BLOCK, num_warps=4, enable_fp_fusion=False
        )
    return values, scale


def _native(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    assert csrc is not None
    x = unit_stride(x.float())
    values, scale = torch.empty(x.shape, dtype=torch.int8), torch.empty(len(x), dtype=torch.float32)
    if len(x):
        csrc.quantize_rows(x.numpy(), values.numpy(), scale.numpy(), torch.get_num_threads())
    return values, scale


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x [rows, in] → values int8 [rows, in] and scale float32 [rows], x ≈ values · scale. The scale of a zero row is
    1."""
    return IMPLS[backend_for(x.device, IMPLS)](x)


IMPLS = {"torch": reference, "triton": _triton} | ({"native": _native} if csrc else {})
