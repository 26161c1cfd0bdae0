"""Convolutions over packed clips of 10 s: conformer_conv, conv1d, conv_transpose1d, residual_block.

Libraries get the clips, which are equally long here, as a batch with channels first. Least bytes: what goes in and the
weights read, the result written.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import accumulate, product
from operator import mul
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.kernels.case import DIM, MODEL, Case, Setup
from seamless_kernels import residual_block
from seamless_kernels.conformer_conv import conformer_conv
from seamless_kernels.conv1d import conv1d, pack_conv_weight
from seamless_kernels.conv_transpose1d import conv_transpose1d, pack_conv_transpose_weight

_UNITS = 500  # units, and frames of the speech encoder, of 10 s
_CLIPS = (1, 8, 64)
_SLOPE = MODEL.leaky_relu_slope
_STAGES = len(MODEL.upsample_rates)
_CHANNELS = [MODEL.upsample_initial_channel >> i for i in range(_STAGES + 1)]  # of the vocoder, stage by stage
_LENGTHS = list(accumulate(MODEL.upsample_rates, mul, initial=_UNITS))
_UNIT_DIM, _VOICE_DIM = MODEL.unit_embed_dim, MODEL.lang_embed_dim + MODEL.spkr_embed_dim


def _image(x: Tensor, clips: int, slope: float | None = None) -> Tensor:
    """Packed [clips · length, channels] → [clips, channels, length], after a leaky ReLU if there is a slope."""
    image = x.view(clips, -1, x.shape[1]).transpose(1, 2)
    return image if slope is None else F.leaky_relu(image, slope)


def _packed(image: Tensor) -> Tensor:
    return image.transpose(1, 2).flatten(0, 1)


def conformer_conv_cases(setup: Setup) -> Iterator[Case]:
    """2 operations for each tap, about 20 an element for the rest."""
    taps = MODEL.conv_depthwise_kernel_size
    w, norm = setup.randn(taps, DIM, scale=taps**-0.5).T, (setup.randn(DIM), setup.randn(DIM))

    def inputs(clips: int) -> tuple[Any, ...]:
        valid = torch.full((clips,), _UNITS, dtype=torch.int32, device=setup.device)
        return setup.randn(clips * _UNITS, 2 * DIM), w, *norm, setup.cu_seqlens(clips, _UNITS), valid

    def eager(x: Tensor, w: Tensor, norm_weight: Tensor, norm_bias: Tensor, _: Tensor, valid: Tensor) -> Tensor:
        y = F.pad(_image(F.glu(x, dim=-1), len(valid)), (taps - 1, 0))
        z = F.conv1d(y, w[:, None], groups=DIM).transpose(1, 2)
        return F.silu(F.layer_norm(z, (DIM,), norm_weight, norm_bias)).reshape(-1, DIM)

    for clips in setup.pick((1, 2), (1, 8, 32, 64)):
        elements, found = clips * _UNITS * DIM, {"ours": conformer_conv, "torch": eager}
        flops, least_bytes = elements * (2.0 * taps + 20.0), 3.0 * elements * setup.dtype.itemsize
        yield Case(f"{clips} × {_UNITS} frames × {DIM}", partial(inputs, clips), found, flops, least_bytes)


class Convolution(NamedTuple):
    """channels in and out; length: frames of a clip; slope: of the leaky ReLU before it; wide: all but x is float32;
    stride: of a transposed convolution, else 0."""

    name: str
    channels: int
    out: int
    taps: int
    length: int
    slope: float | None = None
    wide: bool = False
    stride: int = 0


_CONVOLUTIONS = [
    Convolution("T2U layer", DIM, DIM, 7, _UNITS, slope=0.0),
    Convolution("T2U durations", DIM, MODEL.t2u_variance_predictor_hidden_dim, 3, 120, wide=True),
    Convolution("vocoder durations", _UNIT_DIM, _UNIT_DIM, 3, _UNITS, wide=True),
    Convolution("vocoder first", _UNIT_DIM + _VOICE_DIM, _CHANNELS[0], 7, _UNITS),
    Convolution("vocoder last", _CHANNELS[-1], 1, 7, _LENGTHS[-1], slope=0.01, wide=True),
]
_UPSAMPLING = [
    Convolution(f"× {stride},", _CHANNELS[i], _CHANNELS[i + 1], taps, _LENGTHS[i], slope=_SLOPE, stride=stride)
    for i, (taps, stride) in enumerate(zip(MODEL.upsample_kernel_sizes, MODEL.upsample_rates, strict=True))
]


def conv1d_cases(setup: Setup) -> Iterator[Case]:
    """T2U's layers and the ends of the vocoder."""
    for convolution, clips in product(setup.pick(_CONVOLUTIONS[3:], _CONVOLUTIONS), setup.pick((1,), _CLIPS)):
        yield _convolution(setup, convolution, clips)


def conv_transpose1d_cases(setup: Setup) -> Iterator[Case]:
    """The vocoder's upsampling."""
    for convolution, clips in product(setup.pick(_UPSAMPLING[:2], _UPSAMPLING), setup.pick((1,), _CLIPS)):
        yield _convolution(setup, convolution, clips)


def _convolution(setup: Setup, convolution: Convolution, clips: int) -> Case:
    name, channels, out, taps, length, slope, wide, stride = convolution
    dtype, weights = torch.float32 if wide else setup.dtype, channels * out * taps
    shape, padding = ((channels, out, taps), (taps - stride) // 2) if stride else ((out, channels, taps), taps // 2)

    def inputs() -> tuple[Any, ...]:
        weight = setup.randn(*shape, dtype=dtype, scale=(channels * taps) ** -0.5)
        packed = pack_conv_transpose_weight(weight) if stride else pack_conv_weight(weight)
        bias, cu_seqlens = setup.randn(out, dtype=dtype), setup.cu_seqlens(clips, length)
        return setup.randn(clips * length, channels), weight, packed, bias, cu_seqlens

    def ours(x: Tensor, _: Any, packed: Any, bias: Tensor, cu_seqlens: Tensor) -> Tensor:
        if stride:
            return conv_transpose1d(x, packed, bias, cu_seqlens, stride=stride, leaky_slope=_SLOPE)
        return conv1d(x, packed, bias, cu_seqlens, leaky_slope=slope)

    def library(x: Tensor, weight: Tensor, _: Any, bias: Tensor, __: Any) -> Tensor:
        image = _image(x.to(dtype), clips, slope)
        if stride:
            return _packed(F.conv_transpose1d(image, weight, bias, stride=stride, padding=padding))
        return _packed(F.conv1d(image, weight, bias, padding=padding))

    read, written = clips * length * channels, clips * length * out * max(stride, 1)
    least_bytes = float(read * setup.dtype.itemsize + (written + weights) * dtype.itemsize)
    name = f"{name} {channels} → {out}, {clips} × {length} frames"
    return Case(name, inputs, {"ours": ours, "torch": library}, 2.0 * clips * length * weights, least_bytes)


def residual_block_cases(setup: Setup) -> Iterator[Case]:
    """The last block of three of each stage of the vocoder: 2 · k · dim² operations a frame in each convolution."""
    stages, kernels = range(1, 1 + setup.pick(2, _STAGES)), setup.pick((3,), MODEL.resblock_kernel_sizes)
    for stage, taps, clips in product(stages, kernels, setup.pick((1,), _CLIPS)):
        yield _residual_block(setup, _CHANNELS[stage], _LENGTHS[stage], taps, clips)


def _residual_block(setup: Setup, dim: int, length: int, taps: int, clips: int) -> Case:
    total, dilations = clips * length, MODEL.resblock_dilation_sizes[0]
    options = {"dilations": dilations, "leaky_slope": _SLOPE, "scale": 1 / 3}

    def inputs() -> tuple[Any, ...]:
        x, others = setup.randns(2, total, dim)
        weights = setup.randns(2 * len(dilations), dim, dim, taps, scale=(dim * taps) ** -0.5)
        packed, biases = residual_block.pack_residual_block(weights), setup.randn(len(weights), dim)
        return x, others, weights, packed, biases, setup.cu_seqlens(clips, length)

    def ours(x: Tensor, others: Tensor, _: Any, packed: Any, biases: Tensor, cu_seqlens: Tensor) -> Tensor:
        return residual_block.residual_block(x, packed, biases, cu_seqlens, total=others, **options)

    def library(x: Tensor, others: Tensor, weights: tuple[Tensor, ...], _: Any, biases: Tensor, __: Tensor) -> Tensor:
        image = _image(x, clips)
        for i, dilation in enumerate(dilations):
            h, padding = F.leaky_relu(image, _SLOPE), taps // 2 * dilation
            h = F.leaky_relu(F.conv1d(h, weights[2 * i], biases[2 * i], padding=padding, dilation=dilation), _SLOPE)
            image = image + F.conv1d(h, weights[2 * i + 1], biases[2 * i + 1], padding=taps // 2)
        return (others + _packed(image)) / 3

    flops, elements = 2.0 * total * dim * dim * taps * 6, 3 * total * dim + 6 * dim * dim * taps
    name, found = f"{dim} channels, k = {taps}, {clips} × {length} frames", {"ours": ours, "torch": library}
    return Case(name, inputs, found, flops, float(elements * setup.dtype.itemsize))
