"""The middle of the Conformer convolution module over packed segments, between its two pointwise products.

    y = GLU(x);  z[t] = Σ_τ w[τ] · y[t − (k−1) + τ]  (causal, depthwise);  out = SiLU(LayerNorm(z))
    x [total, 2·dim], w [dim, k], cu_seqlens int32 [n + 1]  →  [total, dim]

Taps before the start of a segment read zero. Frames from valid[i] on (the half-padded one of an odd clip) count as
zero.

A program of the kernel computes ROWS frames of one segment in all channels, since LayerNorm needs all channels. It
reads the frames from k − 1 before its first to its last, and loads AHEAD of them before it uses the first. It gates
each once and adds it to every sum that it is part of. Sums and weights stay in registers, a few channels for each
thread: the ROWS sums are a tuple of the program, not an axis of a tensor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from seamless_kernels.config import config_for
from seamless_kernels.dispatch import backend_for
from seamless_kernels.flash import ONE_CHUNK, locate_tile, max_tiles
from seamless_kernels.jit import jit, tl, triton
from seamless_kernels.layout import unit_stride
from seamless_kernels.precision import compute_dtype

_EPS = 1e-5
_MAX_CHANNELS = 1024  # a program holds all channels of a frame in registers


def reference(
    x: torch.Tensor,
    depthwise_weight: torch.Tensor,
    norm_weight: torch.Tensor,
    norm_bias: torch.Tensor,
    cu_seqlens: torch.Tensor,
    valid: torch.Tensor,
) -> torch.Tensor:
    dim, taps = depthwise_weight.shape
    bounds = cu_seqlens.tolist()
    out = x.new_empty(x.shape[0], dim)
    x, depthwise_weight, norm_weight, norm_bias = (
        tensor.to(compute_dtype(x)) for tensor in (x, depthwise_weight, norm_weight, norm_bias)
    )
    weight = depthwise_weight[:, None].contiguous()  # or F.conv1d would copy it for each segment
    for start, end, count in zip(bounds, bounds[1:], valid.tolist(), strict=False):
        if start == end:
            continue
        gated = x.new_zeros(taps - 1 + end - start, dim)
        gated[taps - 1 : taps - 1 + count] = F.glu(x[start : start + count], dim=-1)
        mixed = F.conv1d(gated.T[None], weight, groups=dim)[0].T  # [T, dim]
        out[start:end] = F.silu(F.layer_norm(mixed, (dim,), norm_weight, norm_bias, _EPS))
    return out


@jit
def _times_sigmoid(value, gate):
    """value · sigmoid(gate), float32, as value · ((1 + 2^(−gate · log2 e))^−½)²: six instructions instead of eleven."""
    root = tl.rsqrt(1.0 + tl.exp2(gate.to(tl.float32) * -1.4426950408889634))
    return value.to(tl.float32) * root * root


@jit
def _stack(frames, CHANNELS: tl.constexpr, ROWS: tl.constexpr):
    """[CHANNELS, ROWS] of a tuple of ROWS (2, 4, 8 or 16) vectors, without moving data between threads."""
    for level in tl.static_range(1, 5):
        if ROWS >> level > 0:
            pairs = (tl.join(frames[0], frames[ROWS >> level]),)
            for j in tl.static_range(1, ROWS >> level):
                pairs = pairs + (tl.join(frames[j], frames[j + (ROWS >> level)]),)
            frames = pairs
    return tl.reshape(frames[0], CHANNELS, ROWS)


@jit(do_not_specialize=["segments"])
def _kernel(
    x_ptr,
    taps_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    out_ptr,
    cu_seqlens_ptr,
    valid_ptr,
    segments,
    chunk,
    eps,
    STRIDE_XM: tl.constexpr,
    DIM: tl.constexpr,
    TAPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    AHEAD: tl.constexpr,
):
    segment, tile = locate_tile(cu_seqlens_ptr, segments, tl.program_id(0), chunk, ROWS)
    start = tl.load(cu_seqlens_ptr + segment)
    length = tl.load(cu_seqlens_ptr + segment + 1) - start
    start_m = tile * ROWS
    if start_m >= length:
        return
    valid = tl.load(valid_ptr + segment)
    offs_c = tl.arange(0, CHANNELS)
    c_mask = offs_c < DIM
    taps = ()
    for tap in tl.static_range(TAPS):
        taps = taps + (tl.load(taps_ptr + tap * DIM + offs_c, mask=c_mask, other=0.0).to(tl.float32),)
    sums = ()
    for _ in tl.static_range(ROWS):
        sums = sums + (tl.zeros([CHANNELS], tl.float32),)
    x_ptr += (start + start_m).to(tl.int64) * STRIDE_XM
    FRAMES: tl.constexpr = ROWS + TAPS - 1
    for first in tl.static_range(0, FRAMES, AHEAD):
        values = ()
        gates = ()
        for i in tl.static_range(first, min(first + AHEAD, FRAMES)):
            frame = start_m + i - (TAPS - 1)
            x_mask = c_mask & (frame >= 0) & (frame < valid)
            row_ptr = x_ptr + (i - (TAPS - 1)) * STRIDE_XM + offs_c
            values = values + (tl.load(row_ptr, mask=x_mask, other=0.0),)
            gates = gates + (tl.load(row_ptr + DIM, mask=x_mask, other=0.0),)
        for i in tl.static_range(first, min(first + AHEAD, FRAMES)):
            y = _times_sigmoid(values[i - first], gates[i - first])
            for j in tl.static_range(ROWS):
                if i - j >= 0 and i - j < TAPS:
                    sums = sums[:j] + (sums[j] + taps[i - j] * y,) + sums[j + 1 :]
    z = _stack(sums, CHANNELS, ROWS)
    mean = tl.sum(z, axis=0) / DIM
    centered = tl.where(c_mask[:, None], z - mean[None, :], 0.0)
    variance = tl.sum(centered * centered, axis=0) / DIM
    weight = tl.load(norm_weight_ptr + offs_c, mask=c_mask, other=0.0).to(tl.float32)
    bias = tl.load(norm_bias_ptr + offs_c, mask=c_mask, other=0.0).to(tl.float32)
    normed = centered * tl.rsqrt(variance + eps)[None, :] * weight[:, None] + bias[:, None]
    out = _times_sigmoid(normed, normed)
    offs_m = start_m + tl.arange(0, ROWS)
    out_ptrs = out_ptr + (start + offs_m).to(tl.int64)[None, :] * DIM + offs_c[:, None]
    tl.store(out_ptrs, out.to(out_ptr.dtype.element_ty), mask=c_mask[:, None] & (offs_m < length)[None, :])


def _triton(
    x: torch.Tensor,
    depthwise_weight: torch.Tensor,
    norm_weight: torch.Tensor,
    norm_bias: torch.Tensor,
    cu_seqlens: torch.Tensor,
    valid: torch.Tensor,
) -> torch.Tensor:
    dim, taps = depthwise_weight.shape
    total, segments = x.shape[0], cu_seqlens.numel() - 1
    x = unit_stride(x)
    out = x.new_empty(total, dim)
    config = config_for("conformer_conv", (dim, taps), x.dtype, x.device)
    tiles = max_tiles(total, segments, config["ROWS"], ONE_CHUNK)
    if tiles:
        _kernel[(tiles,)](
            x,
            depthwise_weight.T.contiguous(),  # a copy, unless the weight is stored as [k, dim]
            norm_weight,
            norm_bias,
            out,
            cu_seqlens,
            valid,
            segments,
            ONE_CHUNK,
            _EPS,
            STRIDE_XM=x.stride(0),
            DIM=dim,
            TAPS=taps,
            CHANNELS=triton.next_power_of_2(dim),
            **config,
        )
    return out


def conformer_conv(
    x: torch.Tensor,
    depthwise_weight: torch.Tensor,
    norm_weight: torch.Tensor,
    norm_bias: torch.Tensor,
    cu_seqlens: torch.Tensor,
    valid: torch.Tensor,
) -> torch.Tensor:
    """[total, dim] from x [total, 2·dim]; valid int [n]: the frames of each segment without padding.

    On a GPU depthwise_weight [dim, k] should lie in memory as [k, dim], made by `w.T.contiguous().T`.
    """
    name = backend_for(x.device, IMPLS)
    if name == "triton" and depthwise_weight.shape[0] > _MAX_CHANNELS:
        name = "torch"
    return IMPLS[name](x, depthwise_weight, norm_weight, norm_bias, cu_seqlens, valid)


IMPLS = {"torch": reference, "triton": _triton}
