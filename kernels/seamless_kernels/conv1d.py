"""1-D convolution over packed segments, channels last, with the epilogues of a HiFi-GAN block and of the T2U layers.

    y[t] = scale · (residual[t] + b + Σ_τ W[:, :, τ] · act(x[t + (τ − (k−1)/2) · dilation]))       "same" length, odd k
    x [total, in], W [out, in, k], b [out], cu_seqlens int32 [n + 1]  →  [total, out];   act: none or leaky ReLU

Taps outside a segment read zero, so the result of a segment does not depend on the other segments.

The Triton kernel is the matrix product of `implicit_gemm`, in tiles that are counted from the start of their segment.
`conv1d_cpu` has the implementation for a CPU.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F

from seamless_kernels.config import config_for
from seamless_kernels.conv1d_cpu import PackedFilter, convolve, pack
from seamless_kernels.dispatch import backend_for
from seamless_kernels.flash import ONE_CHUNK, locate_tile, max_tiles
from seamless_kernels.implicit_gemm import conv_k_loop, leaky_relu, taps_outermost
from seamless_kernels.jit import jit, tl, triton
from seamless_kernels.native import csrc
from seamless_kernels.precision import compute_dtype

ConvWeight = torch.Tensor | PackedFilter

TILE = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps", "num_stages")  # the numbers of a tile in the table
_ROWS = 128  # of a program where there is one output channel


def reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    cu_seqlens: torch.Tensor,
    *,
    dilation: int = 1,
    leaky_slope: float | None = None,
    residual: torch.Tensor | None = None,
    scale: float = 1.0,
) -> torch.Tensor:
    dtype = bias.dtype
    x, weight, bias = (tensor.to(compute_dtype(bias)) for tensor in (x, weight, bias))
    bounds = cu_seqlens.tolist()
    halo = (weight.shape[-1] - 1) // 2 * dilation
    parts = []
    for start, end in pairwise(bounds):
        image = as_image(x[start:end], leaky_slope)
        out = F.conv2d(image, weight, bias, padding=(0, halo), dilation=(1, dilation))[0, :, 0].T
        parts.append(out[: end - start])
    out = parts[0] if len(parts) == 1 else torch.cat(parts)
    out = out if residual is None else out.add_(residual)
    return (out if scale == 1.0 else out.mul_(scale)).to(dtype)


def as_image(x: torch.Tensor, leaky_slope: float | None) -> torch.Tensor:
    """act(x) [1, in, 1, T] of a segment [rows, in]: in an image of height 1 the channels can stay innermost.

    It is a new tensor, so that every segment has the same alignment. T is `rows` rounded up by less than a sixteenth,
    filled with zeros: oneDNN generates code for each length and keeps it only while lengths are few.
    """
    rows = len(x)
    unit = 1 << max(rows.bit_length() - 5, 0)
    image = x.new_empty(-(-rows // unit) * unit, x.shape[1])
    if leaky_slope is None:
        image[:rows] = x
    else:
        torch.ops.aten.leaky_relu.out(x, leaky_slope, out=image[:rows])
    image[rows:] = 0
    return image.T[None, :, None, :]


@jit(do_not_specialize=["segments", "taps", "dilation"])
def _kernel(
    x_ptr,
    w_ptr,
    bias_ptr,
    residual_ptr,
    out_ptr,
    cu_seqlens_ptr,
    segments,
    chunk,
    taps,
    dilation,
    scale,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    TILES_N: tl.constexpr = (OUT + BLOCK_N - 1) // BLOCK_N
    segment, tile = locate_tile(cu_seqlens_ptr, segments, tl.program_id(0) // TILES_N, chunk, BLOCK_M)
    start = tl.load(cu_seqlens_ptr + segment)
    start_m = tile * BLOCK_M
    rows_left = tl.load(cu_seqlens_ptr + segment + 1) - start - start_m  # of the segment, from the tile's first on
    if rows_left <= 0:
        return
    first = (start + start_m).to(tl.int64)
    offs_m = tl.arange(0, BLOCK_M)
    offs_n = tl.program_id(0) % TILES_N * BLOCK_N + tl.arange(0, BLOCK_N)
    bias = tl.load(bias_ptr + offs_n % OUT).to(tl.float32)
    y = conv_k_loop(
        tl.zeros([BLOCK_M, BLOCK_N], tl.float32) + bias[None, :],
        x_ptr + first * IN,
        w_ptr,
        offs_m,
        offs_n % OUT,
        -start_m,
        rows_left,
        taps,
        dilation,
        IN,
        OUT,
        1,
        BLOCK_K,
    )
    offsets = first * OUT + (offs_m[:, None] * OUT + offs_n[None, :])
    mask = (offs_m < rows_left)[:, None] & (offs_n < OUT)[None, :]
    if residual_ptr is not None:
        y += tl.load(residual_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + offsets, (y * scale).to(out_ptr.dtype.element_ty), mask=mask)


@jit(do_not_specialize=["segments", "taps", "dilation"])
def _one_channel_kernel(
    x_ptr,
    w_ptr,
    bias_ptr,
    residual_ptr,
    out_ptr,
    cu_seqlens_ptr,
    segments,
    chunk,
    taps,
    dilation,
    slope,
    scale,
    IN: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """out = 1: a matrix instruction would compute at least eight columns."""
    segment, tile = locate_tile(cu_seqlens_ptr, segments, tl.program_id(0), chunk, ROWS)
    start = tl.load(cu_seqlens_ptr + segment)
    start_m = tile * ROWS
    rows_left = tl.load(cu_seqlens_ptr + segment + 1) - start - start_m
    if rows_left <= 0:
        return
    first = (start + start_m).to(tl.int64)
    offs_m = tl.arange(0, ROWS)
    offs_c = tl.arange(0, CHANNELS)
    c_mask = offs_c < IN
    acc = tl.zeros([ROWS, CHANNELS], tl.float32)
    for tap in range(taps):
        row = offs_m + (tap - taps // 2) * dilation
        x_mask = ((row >= -start_m) & (row < rows_left))[:, None] & c_mask[None, :]
        x = tl.load(x_ptr + first * IN + (row[:, None] * IN + offs_c[None, :]), mask=x_mask, other=0.0).to(tl.float32)
        if slope is not None:
            x = leaky_relu(x, slope)
        acc += x * tl.load(w_ptr + tap * IN + offs_c, mask=c_mask, other=0.0).to(tl.float32)[None, :]
    y = tl.sum(acc, 1) + tl.load(bias_ptr).to(tl.float32)
    m_mask = offs_m < rows_left
    if residual_ptr is not None:
        y += tl.load(residual_ptr + first + offs_m, mask=m_mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + first + offs_m, (y * scale).to(out_ptr.dtype.element_ty), mask=m_mask)


def _triton(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    cu_seqlens: torch.Tensor,
    *,
    dilation: int = 1,
    leaky_slope: float | None = None,
    residual: torch.Tensor | None = None,
    scale: float = 1.0,
) -> torch.Tensor:
    (total, inner), (columns, taps) = x.shape, (weight.shape[0], weight.shape[-1])
    segments = cu_seqlens.numel() - 1
    out = x.new_empty(total, columns, dtype=weight.dtype)
    if not total:
        return out
    if leaky_slope is not None and columns > 1:
        x = F.leaky_relu(x.to(weight.dtype), leaky_slope)
    arguments: tuple[Any, ...] = (
        x.contiguous(),
        taps_outermost(weight),
        bias,
        None if residual is None else residual.contiguous(),
        out,
        cu_seqlens,
        segments,
        ONE_CHUNK,
        taps,
        dilation,
    )
    config = config_for("conv1d", (columns, inner), weight.dtype, x.device)
    if columns == 1:
        _one_channel_kernel[(max_tiles(total, segments, _ROWS, ONE_CHUNK),)](
            *arguments,
            leaky_slope,
            scale,
            IN=inner,
            CHANNELS=triton.next_power_of_2(inner),
            ROWS=_ROWS,
            enable_fp_fusion=config["enable_fp_fusion"],
        )
        return out
    tile: dict[str, int] = {}
    programs = 0
    for sizes in config["TILES"]:  # from large to small, of one BLOCK_K: the first that gives the GPU enough programs
        tile = dict(zip(TILE, sizes, strict=True))
        programs = max_tiles(total, segments, tile["BLOCK_M"], ONE_CHUNK) * triton.cdiv(columns, tile["BLOCK_N"])
        if programs >= config["PROGRAMS"]:
            break
    _kernel[(programs,)](*arguments, scale, IN=inner, OUT=columns, enable_fp_fusion=config["enable_fp_fusion"], **tile)
    return out


def pack_conv_weight(weight: torch.Tensor) -> ConvWeight:
    """`weight` [out, in, k] as `conv1d` reads it fastest on its device: a PackedFilter, or a tensor [out, in, 1, k]
    with the input channels innermost in memory."""
    if backend_for(weight.device, IMPLS) == "native":
        return pack(weight)
    return weight[:, :, None, :].contiguous(memory_format=torch.channels_last)


def backend_of(x: torch.Tensor, weight: ConvWeight) -> str:
    """The CPU kernel reads packed filters alone, and the other implementations plain ones alone."""
    return "native" if isinstance(weight, PackedFilter) else backend_for(x.device, _PLAIN)


def conv1d(
    x: torch.Tensor,
    weight: ConvWeight,
    bias: torch.Tensor,
    cu_seqlens: torch.Tensor,
    *,
    dilation: int = 1,
    leaky_slope: float | None = None,
    residual: torch.Tensor | None = None,
    scale: float = 1.0,
) -> torch.Tensor:
    """[total, out] from x [total, in]; `weight` is as `pack_conv_weight` left it, residual [total, out].

    x may be narrower than the bias, whose dtype the result has.
    """
    return IMPLS[backend_of(x, weight)](
        x, weight, bias, cu_seqlens, dilation=dilation, leaky_slope=leaky_slope, residual=residual, scale=scale
    )


_PLAIN: dict[str, Any] = {"torch": reference, "triton": _triton}
IMPLS: dict[str, Any] = _PLAIN | ({"native": convolve} if csrc else {})
