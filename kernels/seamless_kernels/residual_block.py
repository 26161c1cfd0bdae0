"""Residual block of HiFi-GAN (arXiv 2010.05646) over packed segments: pairs of convolutions with one kernel size.

    for each pair:   h = leaky(conv1(leaky(x); dilation));   x = x + conv2(h)          conv1d has the formula of both
    y = scale · (total + x)                                                             total: of other blocks, if any

    x, total, y [rows, dim], weights [2 · pairs, dim, dim, k], biases [2 · pairs, dim], cu_seqlens int32 [n + 1]

Taps outside a segment read zero, in x and in h: h is not the convolution of the padding. The kernel rounds h once,
after its leaky ReLU, and x after each pair, to the dtype of x; the reference rounds h before the leaky ReLU as well.
On a CPU the compiled kernel (csrc/conv1d_isa.h) makes a pair of a block of rows at a time, h in the caches; between
pairs x stays in float32 there.

A program of the kernel makes a window of rows. It makes h on these rows and as many on either side as conv2 reaches,
leaves it in memory of its own, which the caches keep, and reads it back at each tap. Further pairs go on in the same
way, on fewer rows each: what a window needs beside its own rows its neighbours make too; programs share only x and y.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

from seamless_kernels.config import config_for
from seamless_kernels.conv1d import backend_of_weight, conv1d, pack_conv_weight
from seamless_kernels.flash import ONE_CHUNK, locate, tiles_at_most
from seamless_kernels.implicit_gemm import by_tap, chain, leaky
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


@jit(do_not_specialize=["segments", "windows", "pairs", "taps", "dilations", "height", "step"])
def _kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    total_ptr,
    out_ptr,
    scratch_ptr,  # of each program: h and x between pairs, [height, DIM] each
    cu_seqlens,
    segments,
    windows,
    pairs,
    taps,
    dilations,
    height,
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
    margin = (height - step) // 2
    # rows are counted from the first that the window stores, in x and in the program's own memory
    hidden = scratch_ptr + tl.program_id(0).to(tl.int64) * (2 * height * DIM) + margin * DIM
    carried = hidden + height * DIM
    for window in range(tl.program_id(0), windows, tl.num_programs(0)):
        segment, place = locate(cu_seqlens, segments, window, step, 1 << 30)
        start = tl.load(cu_seqlens + segment)
        first = place * step
        above = (start + first).to(tl.int64) * DIM
        low = -first  # [low, high): rows that x has
        high = tl.load(cu_seqlens + segment + 1) - start - first
        source = x_ptr + above
        reach = margin  # rows that are needed on either side of the window's own
        for pair in range(0, tl.where(high > 0, pairs, 0)):
            last = pair == pairs - 1
            weight = weight_ptr + pair * (2 * taps * DIM * DIM)
            biases = bias_ptr + pair * (2 * DIM)
            dilation = (dilations >> (8 * pair)) & 255
            h_low = tl.maximum(low, -reach)
            h_high = tl.minimum(high, step + reach)
            groups = tl.cdiv(h_high - h_low, dilation * GROUP) * dilation
            for tile in range(0, tl.cdiv(groups, BLOCK_M) * TILES_N):
                group = tile // TILES_N * BLOCK_M + tl.arange(0, BLOCK_M)
                rows = h_low + group // dilation * (dilation * GROUP) + group % dilation
                columns = tile % TILES_N * BLOCK_N + tl.arange(0, BLOCK_N)
                bias = tl.load(biases + columns % DIM).to(tl.float32)
                h = chain(
                    tl.zeros([BLOCK_M, BLOCK_N], tl.float32) + bias[None, :],
                    source,
                    weight,
                    rows,
                    columns,
                    low,
                    high,
                    taps,
                    dilation,
                    slope,
                    DIM,
                    DIM,
                    GROUP,
                    BLOCK_K,
                )
                row = rows[:, None] + (columns // DIM * dilation)[None, :]
                mask = (row < h_high) & (columns < GROUP * DIM)[None, :]
                tl.store(hidden + (row * DIM + (columns % DIM)[None, :]), leaky(h, slope).to(dtype), mask=mask)
            tl.debug_barrier()  # the other threads of the program see it

            reach -= half
            low = tl.maximum(low, -reach)
            high = tl.minimum(high, step + reach)
            sink = tl.where(last, out_ptr + above, carried)
            for tile in range(0, tl.cdiv(tl.cdiv(high - low, GROUP), BLOCK_M) * TILES_N):
                rows = low + (tile // TILES_N * BLOCK_M + tl.arange(0, BLOCK_M)) * GROUP
                columns = tile % TILES_N * BLOCK_N + tl.arange(0, BLOCK_N)
                # rows of a group follow each other here, and so do their channels
                offsets = rows[:, None] * DIM + columns[None, :]
                row = rows[:, None] + (columns // DIM)[None, :]
                mask = (row < high) & (columns < GROUP * DIM)[None, :]
                y = tl.load(source + offsets, mask=mask, other=0.0).to(tl.float32)
                if total_ptr is not None:
                    y += tl.load(total_ptr + above + offsets, mask=mask & last, other=0.0).to(tl.float32)
                y = chain(
                    y + tl.load(biases + DIM + columns % DIM).to(tl.float32)[None, :],
                    hidden,
                    weight + taps * DIM * DIM,
                    rows,
                    columns,
                    h_low,
                    h_high,
                    taps,
                    1,
                    None,
                    DIM,
                    DIM,
                    GROUP,
                    BLOCK_K,
                )
                tl.store(sink + offsets, (y * tl.where(last, scale, 1.0)).to(dtype), mask=mask)
            tl.debug_barrier()
            source = carried
            reach -= half * ((dilations >> (8 * pair + 8)) & 255)


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
    most, programs, largest = config.pop("PAIRS"), config.pop("PROGRAMS"), config.pop("HEIGHT")
    programs *= _processors(x.device)
    x, weights, total = x.contiguous(), by_tap(weights), None if total is None else total.contiguous()
    for first in range(0, len(dilations) if rows else 0, most):
        some = dilations[first : first + most]
        last = first + most >= len(dilations)
        margin = half * (1 + sum(dilation + 1 for dilation in some[1:]))
        height = _height(rows, margin, largest, config["BLOCK_M"] * config["GROUP"], programs)
        step = height - 2 * margin
        windows = tiles_at_most(rows, segments, ONE_CHUNK, step)
        count = min(programs, windows)
        out = torch.empty_like(x)
        _kernel[(count,)](
            x,
            weights[2 * first :],
            biases[2 * first :],
            total if last else None,
            out,
            x.new_empty(count, 2, height, dim),
            cu_seqlens,
            segments,
            windows,
            len(some),
            weights.shape[-1] // dim,
            sum(dilation << 8 * i for i, dilation in enumerate(some)),  # a byte each, three at most
            height,
            step,
            leaky_slope,
            scale if last else 1.0,
            DIM=dim,
            **config,
        )
        x = out
    return x


def _height(rows: int, margin: int, largest: int, tile: int, programs: int) -> int:
    """Rows of h that a window has: fewer than `largest` where rows are few, but at least a tile, and most its own."""
    height = max(largest, 4 * margin)
    while height // 2 >= max(4 * margin, tile) and rows // (height - 2 * margin) < programs:
        height //= 2
    return height


@functools.cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def _native(
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
    assert csrc is not None
    dtype, x, biases = x.dtype, x.float().contiguous(), biases.float()
    bounds = cu_seqlens.to(torch.int32).numpy()
    for i, dilation in enumerate(dilations):
        last = i == len(dilations) - 1
        out = torch.empty_like(x)
        csrc.conv_pair(
            x.numpy(),
            weights[2 * i : 2 * i + 2].numpy(),
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


def pack_residual_block(weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """Weights [dim, dim, k] of conv1, conv2 of each pair as `residual_block` reads them: one tensor of packed ones."""
    packed = [pack_conv_weight(weight) for weight in weights]
    first = packed[0]
    flat = torch.stack([weight.as_strided((weight.numel(),), (1,)) for weight in packed])
    return flat.as_strided((len(packed), *first.shape), (first.numel(), *first.stride()))


def residual_block(
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
    """[rows, dim]; `weights` is as `pack_residual_block` left it, k odd, `dilations` has that of each pair's conv1.

    Blocks side by side are summed by giving each the `total` of those before it, and the last one the `scale`.
    """
    name = backend_of_weight(x, panels=weights.ndim == 4)
    if name == "triton" and max(dilations) > 127:
        name = "torch"
    return IMPLS[name](
        x, weights, biases, cu_seqlens, dilations=dilations, leaky_slope=leaky_slope, total=total, scale=scale
    )


IMPLS = {"torch": reference, "triton": _triton} | ({"native": _native} if csrc else {})
