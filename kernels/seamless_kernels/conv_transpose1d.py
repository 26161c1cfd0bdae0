"""Transposed 1-D convolution over packed segments, channels last: every segment grows by exactly `stride`.

y[s] = b + Σ_{t, τ : t · stride + τ − padding = s} W[:, :, τ]ᵀ · act(x[t]),    padding = (k − stride) / 2
x [total, in], W [in, out, k], b [out], cu_seqlens int32 [n + 1]  →  [total · stride, out];   act: leaky ReLU

Row q · stride + r of the result is phase r of row q of x. It multiplies row q + o of x by tap τ = r + padding − o ·
stride, for two or three offsets o. The kernel computes all phases as one matrix product [rows, stride · out], whose
reduction runs over the offsets that the phases of a tile need; a tile is stored contiguously.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F

from seamless_kernels.config import config_for
from seamless_kernels.conv1d import as_image
from seamless_kernels.dispatch import backend_for
from seamless_kernels.flash import ONE_CHUNK, locate_tile, max_tiles
from seamless_kernels.implicit_gemm import leaky_relu
from seamless_kernels.jit import jit, tl, triton
from seamless_kernels.precision import compute_dtype


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
    w_ptr,
    bias_ptr,
    out_ptr,
    cu_seqlens_ptr,
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
    N = stride * OUT
    tiles_n = tl.cdiv(N, BLOCK_N)
    segment, tile = locate_tile(cu_seqlens_ptr, segments, tl.program_id(0) // tiles_n, chunk, BLOCK_M)
    start = tl.load(cu_seqlens_ptr + segment)
    start_m = tile * BLOCK_M
    rows_left = tl.load(cu_seqlens_ptr + segment + 1) - start - start_m
    if rows_left <= 0:
        return
    first = (start + start_m).to(tl.int64)
    x_ptr += first * IN
    offs_m = tl.arange(0, BLOCK_M)
    start_n = tl.program_id(0) % tiles_n * BLOCK_N
    offs_n = start_n + tl.arange(0, BLOCK_N)
    channel = offs_n % OUT
    # Offsets rise as taps fall: the lowest belongs to the last tap of the tile's first phase, the highest to the first
    # tap of its last phase.
    padding = (taps - stride) // 2
    lowest = -((taps - 1 - padding - start_n // OUT) // stride)
    highest = (padding + (tl.minimum(start_n + BLOCK_N, N) - 1) // OUT) // stride
    phase = (offs_n // OUT + padding)[None, :]

    offs_k = tl.arange(0, BLOCK_K)
    K = (highest - lowest + 1) * IN
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start_k in range(0, K, BLOCK_K):
        offset = lowest + (start_k + offs_k) // IN
        row = offs_m[:, None] + offset[None, :]
        tap = phase - (offset * stride)[:, None]
        x_mask = (row >= -start_m) & (row < rows_left)
        w_mask = (tap >= 0) & (tap < taps)
        if IN % BLOCK_K != 0:
            x_mask &= (start_k + offs_k < K)[None, :]
            w_mask &= (start_k + offs_k < K)[:, None]
        w_ptrs = w_ptr + (((start_k + offs_k) % IN)[:, None] * (taps * OUT) + (tap * OUT + channel[None, :]))
        w = tl.load(w_ptrs, mask=w_mask, other=0.0, cache_modifier=".ca")
        x_ptrs = x_ptr + (row * IN + ((start_k + offs_k) % IN)[None, :])
        x = tl.load(x_ptrs, mask=x_mask, other=0.0, cache_modifier=".ca")
        acc = tl.dot(leaky_relu(x, slope).to(w.dtype), w, acc, input_precision="tf32x3")
    y = acc + tl.load(bias_ptr + channel).to(tl.float32)[None, :]
    out_ptrs = out_ptr + (first * N + (offs_m[:, None] * N + offs_n[None, :]))
    tl.store(out_ptrs, y.to(out_ptr.dtype.element_ty), mask=(offs_m < rows_left)[:, None] & (offs_n < N)[None, :])


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
    tiles = max_tiles(total, segments, config["BLOCK_M"], ONE_CHUNK) * triton.cdiv(stride * columns, config["BLOCK_N"])
    if total:
        _kernel[(tiles,)](
            x.contiguous(),
            weight.movedim(1, -1).contiguous(),  # [in, 1, k, out]: its order in memory, so no copy
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


def pack_conv_transpose_weight(weight: torch.Tensor) -> torch.Tensor:
    """`weight` [in, out, k] as `conv_transpose1d` reads it: [in, out, 1, k] with the output channels innermost in
    memory."""
    return weight[:, :, None, :].contiguous(memory_format=torch.channels_last)


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
