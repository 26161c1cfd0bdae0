"""Transposed 1-D convolution over packed segments, channels last: every segment grows by exactly `stride`.

y[s] = b + Σ_{t, τ : t · stride + τ − padding = s} W[:, :, τ]ᵀ · act(x[t]),    padding = (k − stride) / 2
x [total, in], W [in, out, k], b [out], cu_seqlens int32 [n + 1]  →  [total · stride, out];   act: leaky ReLU

Row q · stride + r of the result is phase r of row q of x. It takes from row q + o of x the tap
τ = r + padding − o · stride, two or three of the k. The kernel makes all phases as one matrix product of the rows
q + o, [rows, stride · out], where a tile of columns has the offsets o of its phases; what it stores is contiguous.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F

from seamless_kernels.config import config_for
from seamless_kernels.conv1d import as_image
from seamless_kernels.dispatch import backend_for
from seamless_kernels.flash import ONE_CHUNK, locate, tiles_at_most
from seamless_kernels.implicit_gemm import leaky
from seamless_kernels.jit import jit, tl, triton
from seamless_kernels.precision import compute_dtype


def pack_conv_transpose_weight(weight: torch.Tensor) -> torch.Tensor:
    """`weight` [in, out, k] as `conv_transpose1d` reads it: [in, out, 1, k], channels innermost."""
    return weight[:, :, None, :].contiguous(memory_format=torch.channels_last)


def reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    cu_seqlens: torch.Tensor,
    *,
    stride: int,
    leaky_slope: float,
) -> torch.Tensor:
    dtype = x.dtype
    x, weight, bias = (tensor.to(compute_dtype(x)) for tensor in (x, weight, bias))
    bounds = cu_seqlens.tolist()
    padding = (weight.shape[-1] - stride) // 2
    parts = []
    for start, end in pairwise(bounds):
        image = as_image(x[start:end], leaky_slope)
        grown = F.conv_transpose2d(image, weight, bias, stride=(1, stride), padding=(0, padding))
        parts.append(grown[0, :, 0].T[: (end - start) * stride])
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).to(dtype)


@jit(do_not_specialize=["segments", "taps", "stride"])
def _kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    cu_seqlens,
    segments,
    chunk,
    taps,
    stride,
    slope,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    width = stride * OUT
    tiles_n = tl.cdiv(width, BLOCK_N)
    segment, tile = locate(cu_seqlens, segments, tl.program_id(0) // tiles_n, chunk, BLOCK_M)
    start = tl.load(cu_seqlens + segment)
    first = tile * BLOCK_M
    left = tl.load(cu_seqlens + segment + 1) - start - first
    if left <= 0:
        return
    above = (start + first).to(tl.int64)
    x_ptr += above * IN
    rows = tl.arange(0, BLOCK_M)
    column = tl.program_id(0) % tiles_n * BLOCK_N
    columns = column + tl.arange(0, BLOCK_N)
    channels = columns % OUT
    # offsets rise as taps fall: the lowest is of the first phase's last tap, the highest of the last phase's first
    padding = (taps - stride) // 2
    lowest = -((taps - 1 - padding - column // OUT) // stride)
    highest = (padding + (tl.minimum(column + BLOCK_N, width) - 1) // OUT) // stride
    phase = (columns // OUT + padding)[None, :]

    k = tl.arange(0, BLOCK_K)
    inner = (highest - lowest + 1) * IN
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for at in range(0, inner, BLOCK_K):
        offset = lowest + (at + k) // IN
        row = rows[:, None] + offset[None, :]
        tap = phase - (offset * stride)[:, None]
        known = (row >= -first) & (row < left)
        used = (tap >= 0) & (tap < taps)
        if IN % BLOCK_K != 0:
            known &= (at + k < inner)[None, :]
            used &= (at + k < inner)[:, None]
        weights = weight_ptr + (((at + k) % IN)[:, None] * (taps * OUT) + (tap * OUT + channels[None, :]))
        weight = tl.load(weights, mask=used, other=0.0, cache_modifier=".ca")
        x = tl.load(x_ptr + (row * IN + ((at + k) % IN)[None, :]), mask=known, other=0.0, cache_modifier=".ca")
        total = tl.dot(leaky(x, slope).to(weight.dtype), weight, total, input_precision="ieee")
    y = total + tl.load(bias_ptr + channels).to(tl.float32)[None, :]
    out_ptr += above * width + (rows[:, None] * width + columns[None, :])
    tl.store(out_ptr, y.to(out_ptr.dtype.element_ty), mask=(rows < left)[:, None] & (columns < width)[None, :])


def _triton(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    cu_seqlens: torch.Tensor,
    *,
    stride: int,
    leaky_slope: float,
) -> torch.Tensor:
    (total, inner), (columns, taps) = x.shape, (weight.shape[1], weight.shape[-1])
    segments = cu_seqlens.numel() - 1
    out = x.new_empty(total * stride, columns)
    config = config_for("conv_transpose1d", (columns, inner), x.dtype, x.device)
    tiles = tiles_at_most(total, segments, config["BLOCK_M"], ONE_CHUNK) * triton.cdiv(
        stride * columns, config["BLOCK_N"]
    )
    if total:
        _kernel[(tiles,)](
            x.contiguous(),
            weight.movedim(1, -1).contiguous(),  # [in, 1, k, out]: as it lies in memory
            bias,
            out,
            cu_seqlens,
            segments,
            ONE_CHUNK,
            taps,
            stride,
            leaky_slope,
            IN=inner,
            OUT=columns,
            **config,
        )
    return out


def conv_transpose1d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    cu_seqlens: torch.Tensor,
    *,
    stride: int,
    leaky_slope: float,
) -> torch.Tensor:
    """[total · stride, out]; `weight` is as `pack_conv_transpose_weight` left it, k − stride even and not negative."""
    return IMPLS[backend_for(x.device, IMPLS)](x, weight, bias, cu_seqlens, stride=stride, leaky_slope=leaky_slope)


IMPLS = {"torch": reference, "triton": _triton}
