"""Residual block of HiFi-GAN (arXiv 2010.05646) over packed segments: pairs of convolutions with one kernel size.

    for each pair:   h = leaky(conv1(leaky(x); dilation));   x = x + conv2(h)          conv1d has the formula of both
    y = scale · (total + x)                                             total: the sum of other blocks, if there are any

    x, total, y [rows, dim], weights [2 · pairs, dim, dim, k], biases [2 · pairs, dim], cu_seqlens int32 [n + 1]

Taps outside a segment read zero, in x and in h: h is not the convolution of the padding. The Triton kernel rounds h
once, after its leaky ReLU, and x after each pair, to the dtype of x; the reference rounds h before the leaky ReLU as
well. The CPU kernel (csrc/ops/conv1d_isa.h) computes both convolutions of a pair for one block of rows at a time, with
h in the caches; there x stays in float32 between pairs.

A program of the Triton kernel computes a window of rows. It stores leaky(x) of these rows and of a halo in scratch
memory of its own, which stays in the caches, so that the activation is computed once and not at each tap. It computes h
for the rows and for the halo that conv2 reads, stores it there too, and reads it back at each tap. The next pair does
the same with a smaller halo. The halo of a window is also computed by the adjacent windows: programs share only x and
y.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from seamless_kernels.config import config_for, num_sms
from seamless_kernels.conv1d import ConvWeight, PackedFilter, backend_of, conv1d, pack_conv_weight
from seamless_kernels.flash import ONE_CHUNK, locate_tile, max_tiles
from seamless_kernels.implicit_gemm import conv_k_loop, leaky_relu, taps_outermost
from seamless_kernels.jit import jit, tl
from seamless_kernels.native import csrc


def reference(
    x: torch.Tensor,
    weights: torch.Tensor,
    biases: torch.Tensor,
    cu_seqlens: torch.Tensor,
    *,
    dilations: Sequence[int],
    leaky_slope: float,
    total: torch.Tensor | None = None,
    scale: float = 1.0,
) -> torch.Tensor:
    for i, dilation in enumerate(dilations):
        h = conv1d(x, weights[2 * i], biases[2 * i], cu_seqlens, dilation=dilation, leaky_slope=leaky_slope)
        x = conv1d(h, weights[2 * i + 1], biases[2 * i + 1], cu_seqlens, leaky_slope=leaky_slope, residual=x)
    if total is not None:
        x = total + x
    return x if scale == 1.0 else x * scale


@jit(do_not_specialize=["segments", "windows", "pairs", "taps", "dilations", "space", "margin", "step"])
def _kernel(
    x_ptr,
    w_ptr,
    bias_ptr,
    total_ptr,
    out_ptr,
    scratch_ptr,  # of each program: leaky(x), h, and, with several pairs, x between them, [space, DIM] each
    cu_seqlens_ptr,
    segments,
    windows,
    pairs,
    taps,
    dilations,
    space,
    margin,
    step,
    slope,
    scale,
    DIM: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    TILES_N: tl.constexpr = (GROUP * DIM + BLOCK_N - 1) // BLOCK_N
    dtype = out_ptr.dtype.element_ty
    half = taps // 2
    ELEMENTS: tl.constexpr = BLOCK_M * BLOCK_K  # that are activated at once
    buffers = tl.where(pairs > 1, 3, 2)
    # rows are counted from the first that the window stores, in x and in the scratch memory
    act_ptr = scratch_ptr + tl.program_id(0).to(tl.int64) * (buffers * space * DIM) + (space - step) // 2 * DIM
    h_ptr = act_ptr + space * DIM
    carry_ptr = h_ptr + space * DIM
    for window in range(tl.program_id(0), windows, tl.num_programs(0)):
        segment, place = locate_tile(cu_seqlens_ptr, segments, window, step, 1 << 30)
        start = tl.load(cu_seqlens_ptr + segment)
        start_m = place * step
        first = (start + start_m).to(tl.int64) * DIM
        low = -start_m  # x has rows low … high − 1
        high = tl.load(cu_seqlens_ptr + segment + 1) - start - start_m
        src_ptr = x_ptr + first
        halo = margin  # rows that are needed on either side of the window's own
        for pair in range(0, tl.where(high > 0, pairs, 0)):
            last = pair == pairs - 1
            pair_w_ptr = w_ptr + pair * (2 * taps * DIM * DIM)
            pair_bias_ptr = bias_ptr + pair * (2 * DIM)
            dilation = (dilations >> (8 * pair)) & 255
            h_low = tl.maximum(low, -halo)
            h_high = tl.minimum(high, step + halo)
            x_low = tl.maximum(low, h_low - half * dilation)
            x_high = tl.minimum(high, h_high + half * dilation)
            for element in range(x_low * DIM, x_high * DIM, ELEMENTS):
                offsets = element + tl.arange(0, ELEMENTS)
                mask = offsets < x_high * DIM
                x = tl.load(src_ptr + offsets, mask=mask, other=0.0)
                tl.store(act_ptr + offsets, leaky_relu(x, slope).to(dtype), mask=mask)
            tl.debug_barrier()  # other threads of the program read what this one stored

            groups = tl.cdiv(h_high - h_low, dilation * GROUP) * dilation
            for tile in range(0, tl.cdiv(groups, BLOCK_M) * TILES_N):
                group = tile // TILES_N * BLOCK_M + tl.arange(0, BLOCK_M)
                offs_m = h_low + group // dilation * (dilation * GROUP) + group % dilation
                offs_n = tile % TILES_N * BLOCK_N + tl.arange(0, BLOCK_N)
                bias = tl.load(pair_bias_ptr + offs_n % DIM).to(tl.float32)
                h = conv_k_loop(
                    tl.zeros([BLOCK_M, BLOCK_N], tl.float32) + bias[None, :],
                    act_ptr,
                    pair_w_ptr,
                    offs_m,
                    offs_n,
                    x_low,
                    x_high,
                    taps,
                    dilation,
                    DIM,
                    DIM,
                    GROUP,
                    BLOCK_K,
                )
                row = offs_m[:, None] + (offs_n // DIM * dilation)[None, :]
                mask = (row < h_high) & (offs_n < GROUP * DIM)[None, :]
                tl.store(h_ptr + (row * DIM + (offs_n % DIM)[None, :]), leaky_relu(h, slope).to(dtype), mask=mask)
            tl.debug_barrier()

            halo -= half
            low = tl.maximum(low, -halo)
            high = tl.minimum(high, step + halo)
            dst_ptr = tl.where(last, out_ptr + first, carry_ptr)
            for tile in range(0, tl.cdiv(tl.cdiv(high - low, GROUP), BLOCK_M) * TILES_N):
                offs_m = low + (tile // TILES_N * BLOCK_M + tl.arange(0, BLOCK_M)) * GROUP
                offs_n = tile % TILES_N * BLOCK_N + tl.arange(0, BLOCK_N)
                # here the rows of a group are adjacent, and so are their channels
                offsets = offs_m[:, None] * DIM + offs_n[None, :]
                row = offs_m[:, None] + (offs_n // DIM)[None, :]
                mask = (row < high) & (offs_n < GROUP * DIM)[None, :]
                y = tl.load(src_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
                if total_ptr is not None:
                    y += tl.load(total_ptr + first + offsets, mask=mask & last, other=0.0).to(tl.float32)
                y = conv_k_loop(
                    y + tl.load(pair_bias_ptr + DIM + offs_n % DIM).to(tl.float32)[None, :],
                    h_ptr,
                    pair_w_ptr + taps * DIM * DIM,
                    offs_m,
                    offs_n,
                    h_low,
                    h_high,
                    taps,
                    1,
                    DIM,
                    DIM,
                    GROUP,
                    BLOCK_K,
                )
                tl.store(dst_ptr + offsets, (y * tl.where(last, scale, 1.0)).to(dtype), mask=mask)
            tl.debug_barrier()
            src_ptr = carry_ptr
            halo -= half * ((dilations >> (8 * pair + 8)) & 255)


def _triton(
    x: torch.Tensor,
    weights: torch.Tensor,
    biases: torch.Tensor,
    cu_seqlens: torch.Tensor,
    *,
    dilations: Sequence[int],
    leaky_slope: float,
    total: torch.Tensor | None = None,
    scale: float = 1.0,
) -> torch.Tensor:
    (rows, dim), half, segments = x.shape, weights.shape[-1] // 2, cu_seqlens.numel() - 1
    config = config_for("residual_block", (dim,), x.dtype, x.device)
    max_pairs, programs, largest = config.pop("PAIRS"), config.pop("PROGRAMS"), config.pop("HEIGHT")
    programs *= num_sms(x.device, 2)
    x, weights, total = x.contiguous(), taps_outermost(weights), None if total is None else total.contiguous()
    for first in range(0, len(dilations) if rows else 0, max_pairs):
        some = dilations[first : first + max_pairs]
        last = first + max_pairs >= len(dilations)
        margin = half * (1 + sum(dilation + 1 for dilation in some[1:]))
        height = window_height(rows, segments, margin, largest, config["BLOCK_M"] * config["GROUP"], programs)
        step = height - 2 * margin
        space = height + 2 * half * some[0]  # no later pair reads as far
        windows = max_tiles(rows, segments, ONE_CHUNK, step)
        count = min(programs, windows)
        out = torch.empty_like(x)
        _kernel[(count,)](
            x,
            weights[2 * first :],
            biases[2 * first :],
            total if last else None,
            out,
            x.new_empty(count, 3 if len(some) > 1 else 2, space, dim),
            cu_seqlens,
            segments,
            windows,
            len(some),
            weights.shape[-1] // dim,
            sum(dilation << 8 * i for i, dilation in enumerate(some)),  # a byte each, at most three
            space,
            margin,
            step,
            leaky_slope,
            scale if last else 1.0,
            DIM=dim,
            **config,
        )
        x = out
    return x


def window_height(rows: int, segments: int, margin: int, largest: int, tile: int, programs: int) -> int:
    """Rows of h in a window, a multiple of `tile`: the height with which the program that has most windows computes the
    fewest rows, of several the largest. At least half of the rows are the window's own.
    """
    smallest = -(-max(4 * margin, tile) // tile) * tile

    def rows_of_a_program(height: int) -> int:
        windows = max_tiles(rows, segments, ONE_CHUNK, height - 2 * margin)
        return -(-windows // programs) * height

    return min(reversed(range(smallest, max(largest, smallest) + 1, tile)), key=rows_of_a_program)


def _native(
    x: torch.Tensor,
    weights: PackedFilter,
    biases: torch.Tensor,
    cu_seqlens: torch.Tensor,
    *,
    dilations: Sequence[int],
    leaky_slope: float,
    total: torch.Tensor | None = None,
    scale: float = 1.0,
) -> torch.Tensor:
    assert csrc is not None
    dtype, x, biases = x.dtype, x.float().contiguous(), biases.float()
    bounds = cu_seqlens.to(torch.int32).numpy()
    for i, dilation in enumerate(dilations):
        last = i == len(dilations) - 1
        out = torch.empty_like(x)
        csrc.conv_pair(
            x.numpy(),
            weights.panels[2 * i : 2 * i + 2].numpy(),
            biases[2 * i : 2 * i + 2].numpy(),
            bounds,
            total.float().contiguous().numpy() if last and total is not None else None,
            out.numpy(),
            dilation,
            leaky_slope,
            scale if last else 1.0,
            torch.get_num_threads(),
        )
        x = out
    return x.to(dtype)


def pack_residual_block(weights: Sequence[torch.Tensor]) -> ConvWeight:
    """Weights [dim, dim, k] of conv1, conv2 of each pair as `residual_block` reads them: those of conv1d, stacked."""
    packed, panels = [], []
    for weight in map(pack_conv_weight, weights):
        if isinstance(weight, PackedFilter):
            panels.append(weight.panels)
        else:
            packed.append(weight)
    if panels:
        return PackedFilter(torch.stack(panels))
    first = packed[0]
    # torch.stack would not keep the channels innermost
    flat = torch.stack([weight.as_strided((weight.numel(),), (1,)) for weight in packed])
    return flat.as_strided((len(packed), *first.shape), (first.numel(), *first.stride()))


def residual_block(
    x: torch.Tensor,
    weights: ConvWeight,
    biases: torch.Tensor,
    cu_seqlens: torch.Tensor,
    *,
    dilations: Sequence[int],
    leaky_slope: float,
    total: torch.Tensor | None = None,
    scale: float = 1.0,
) -> torch.Tensor:
    """[rows, dim]; `weights` is as `pack_residual_block` left it, k odd; `dilations` are those of the pairs' conv1.

    To sum several blocks, give each the `total` of the blocks before it, and the last one the `scale`.
    """
    name = backend_of(x, weights)
    if name == "triton" and max(dilations) > 127:
        name = "torch"
    return IMPLS[name](
        x, weights, biases, cu_seqlens, dilations=dilations, leaky_slope=leaky_slope, total=total, scale=scale
    )


IMPLS: dict[str, Any] = {"torch": reference, "triton": _triton} | ({"native": _native} if csrc else {})
