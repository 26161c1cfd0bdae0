"""1-D convolution over packed segments, channels last, with the epilogues of a HiFi-GAN block and of the T2U layers.

    y[t] = scale · (residual[t] + b + Σ_τ W[:, :, τ] · act(x[t + (τ − (k−1)/2) · dilation]))       "same" length, odd k
    x [total, in], W [out, in, k], b [out], cu_seqlens int32 [n + 1]  →  [total, out];   act: none or leaky ReLU

Taps outside a segment read zero, so a segment's samples do not depend on its neighbours.

The kernel is the matrix product of `implicit_gemm`. Tiles of rows are counted from the start of their segment. On a
CPU the compiled one (csrc/conv1d_isa.h) makes the rows of a segment two by two, with a third fewer products, and adds
them up in one order, whatever rows are beside. An infinity becomes NaN there in what reads it.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F

from seamless_kernels.config import config_for
from seamless_kernels.dispatch import backend_for
from seamless_kernels.flash import ONE_CHUNK, locate, tiles_at_most
from seamless_kernels.implicit_gemm import by_tap, chain, leaky
from seamless_kernels.jit import jit, tl, triton
from seamless_kernels.native import csrc
from seamless_kernels.precision import compute_dtype

_TILE = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps", "num_stages")  # a tile of the table
_ROWS = 128  # of a program that has one output channel
_PANEL = 16  # output channels of a panel of the compiled kernel


def pack_conv_weight(weight: torch.Tensor) -> torch.Tensor:
    """`weight` [out, in, k] as `conv1d` reads it: [out, in, 1, k] with the input channels innermost. For the compiled
    kernel: panels [⌈out / 16⌉, (k + ⌈k / 3⌉) · in, 16] of `pair_taps`, in float32 whatever the weight's dtype."""
    if backend_for(weight.device, IMPLS) == "native":
        terms = F.pad(pair_taps(weight.float()), (0, 0, 0, 0, 0, -len(weight) % _PANEL))
        return terms.unflatten(0, (-1, _PANEL)).permute(0, 3, 2, 1).flatten(1, 2).contiguous()
    return weight[:, :, None, :].contiguous(memory_format=torch.channels_last)


def pair_taps(weight: torch.Tensor) -> torch.Tensor:
    """`weight` [out, in, k] as two neighbours y₀, y₁ are made with it together: [out, in, k + ⌈k / 3⌉].

    By three taps w₀ w₁ w₂ of x₀ … x₃, in four products of the six (Winograd's F(2, 3): arXiv 1509.09308, section 4.1):

        y₀ = (x₀ − x₂) w₀ + (x₁ + x₂) (w₀ + w₁ + w₂) / 2 + (x₂ − x₁) (w₀ − w₁ + w₂) / 2
        y₁ =                (x₁ + x₂) (w₀ + w₁ + w₂) / 2 − (x₂ − x₁) (w₀ − w₁ + w₂) / 2 + (x₁ − x₃) (−w₂)

    Of the one or two taps that may be left, two in three products of four:

        y₀ = (x₁ − x₀) (−w₀) + x₁ (w₀ + w₁)              y₀ = x₀ w₀
        y₁ =                   x₁ (w₀ + w₁) + (x₂ − x₁) w₁        y₁ = x₁ w₀

    What y₀ alone has comes first, of all taps; then what both have; what they have with opposite signs; y₁ alone.
    """
    w = weight.double().unbind(-1)
    even, both, opposite, odd = [], [], [], []
    for a, b, c in zip(w[0::3], w[1::3], w[2::3], strict=False):
        even.append(a)
        both.append((a + b + c) / 2)
        opposite.append((a - b + c) / 2)
        odd.append(-c)
    if len(w) % 3 == 2:
        even.append(-w[-2])
        both.append(w[-2] + w[-1])
        odd.append(w[-1])
    elif len(w) % 3 == 1:
        even.append(w[-1])
        odd.append(w[-1])
    return torch.stack([*even, *both, *opposite, *odd], -1).to(weight.dtype)


def backend_of_weight(x: torch.Tensor, panels: bool) -> str:
    """Panels are for the compiled kernel alone; other weights for all others, whichever the data of `x` asks for."""
    return "native" if panels else backend_for(x.device, _UNPACKED)


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
    """act(x) [1, in, 1, T] of a segment [rows, in]: as an image of height 1, channels can stay innermost.

    A tensor of its own, so that every segment has the same alignment. T is `rows` rounded up by less than a sixteenth,
    with zeros: of few different lengths oneDNN keeps the code that it makes for each.
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
    weight_ptr,
    bias_ptr,
    residual_ptr,
    out_ptr,
    cu_seqlens,
    segments,
    chunk,
    taps,
    dilation,
    slope,
    scale,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    TILES_N: tl.constexpr = (OUT + BLOCK_N - 1) // BLOCK_N
    segment, tile = locate(cu_seqlens, segments, tl.program_id(0) // TILES_N, chunk, BLOCK_M)
    start = tl.load(cu_seqlens + segment)
    first = tile * BLOCK_M
    left = tl.load(cu_seqlens + segment + 1) - start - first  # rows of the segment from here on
    if left <= 0:
        return
    above = (start + first).to(tl.int64)
    rows = tl.arange(0, BLOCK_M)
    columns = tl.program_id(0) % TILES_N * BLOCK_N + tl.arange(0, BLOCK_N)
    bias = tl.load(bias_ptr + columns % OUT).to(tl.float32)
    y = chain(
        tl.zeros([BLOCK_M, BLOCK_N], tl.float32) + bias[None, :],
        x_ptr + above * IN,
        weight_ptr,
        rows,
        columns % OUT,
        -first,
        left,
        taps,
        dilation,
        slope,
        IN,
        OUT,
        1,
        BLOCK_K,
    )
    offsets = above * OUT + (rows[:, None] * OUT + columns[None, :])
    mask = (rows < left)[:, None] & (columns < OUT)[None, :]
    if residual_ptr is not None:
        y += tl.load(residual_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + offsets, (y * scale).to(out_ptr.dtype.element_ty), mask=mask)


@jit(do_not_specialize=["segments", "taps", "dilation"])
def _one_channel_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    residual_ptr,
    out_ptr,
    cu_seqlens,
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
    """out = 1, of which a matrix instruction would make at least eight."""
    segment, tile = locate(cu_seqlens, segments, tl.program_id(0), chunk, ROWS)
    start = tl.load(cu_seqlens + segment)
    first = tile * ROWS
    left = tl.load(cu_seqlens + segment + 1) - start - first
    if left <= 0:
        return
    above = (start + first).to(tl.int64)
    rows = tl.arange(0, ROWS)
    channels = tl.arange(0, CHANNELS)
    inside = channels < IN
    sums = tl.zeros([ROWS, CHANNELS], tl.float32)
    for tap in range(taps):
        row = rows + (tap - taps // 2) * dilation
        known = ((row >= -first) & (row < left))[:, None] & inside[None, :]
        x = tl.load(x_ptr + above * IN + (row[:, None] * IN + channels[None, :]), mask=known, other=0.0).to(tl.float32)
        if slope is not None:
            x = leaky(x, slope)
        sums += x * tl.load(weight_ptr + tap * IN + channels, mask=inside, other=0.0).to(tl.float32)[None, :]
    y = tl.sum(sums, 1) + tl.load(bias_ptr).to(tl.float32)
    if residual_ptr is not None:
        y += tl.load(residual_ptr + above + rows, mask=rows < left, other=0.0).to(tl.float32)
    tl.store(out_ptr + above + rows, (y * scale).to(out_ptr.dtype.element_ty), mask=rows < left)


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
    arguments = (
        x.contiguous(),
        by_tap(weight),
        bias,
        None if residual is None else residual.contiguous(),
        out,
        cu_seqlens,
        segments,
        ONE_CHUNK,
        taps,
        dilation,
        leaky_slope,
        scale,
    )
    config = config_for("conv1d", (columns, inner), weight.dtype, x.device)
    if columns == 1:
        _one_channel_kernel[(tiles_at_most(total, segments, _ROWS, ONE_CHUNK),)](
            *arguments,
            IN=inner,
            CHANNELS=triton.next_power_of_2(inner),
            ROWS=_ROWS,
            enable_fp_fusion=config["enable_fp_fusion"],
        )
        return out
    tile: dict[str, int] = {}
    programs = 0
    for sizes in config["TILES"]:  # large to small: the first that gives the GPU enough programs
        tile = dict(zip(_TILE, sizes, strict=True))
        programs = tiles_at_most(total, segments, tile["BLOCK_M"], ONE_CHUNK) * triton.cdiv(columns, tile["BLOCK_N"])
        if programs >= config["PROGRAMS"]:
            break
    _kernel[(programs,)](*arguments, IN=inner, OUT=columns, enable_fp_fusion=config["enable_fp_fusion"], **tile)
    return out


def _native(
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
    assert csrc is not None
    x = x.float()
    out = x.new_empty(len(x), len(bias))
    csrc.conv1d(
        (x if x.stride(1) == 1 else x.contiguous()).numpy(),
        weight.numpy(),
        bias.float().numpy(),
        cu_seqlens.to(torch.int32).numpy(),
        None if residual is None else residual.float().contiguous().numpy(),
        out.numpy(),
        dilation,
        1.0 if leaky_slope is None else leaky_slope,
        scale,
        torch.get_num_threads(),
    )
    return out.to(bias.dtype)


def conv1d(
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
    """[total, out] from x [total, in]; `weight` is as `pack_conv_weight` left it, residual [total, out].

    x may be narrower than the bias, whose dtype the result has.
    """
    return IMPLS[backend_of_weight(x, weight.ndim == 3)](
        x, weight, bias, cu_seqlens, dilation=dilation, leaky_slope=leaky_slope, residual=residual, scale=scale
    )


_UNPACKED = {"torch": reference, "triton": _triton}
IMPLS = _UNPACKED | ({"native": _native} if csrc else {})
