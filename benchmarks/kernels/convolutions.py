"""Convolutions over packed clips of 10 s: conformer_conv, conv1d, conv_transpose1d, residual_block.

Libraries get the clips, which are equally long here, as a batch with channels first. Least bytes: what goes in and the
weights read, the result written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate
from operator import mul
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.kernels.case import DIM, MODEL, Case, Setup
from seamless_kernels import residual_block
from seamless_kernels.conformer_conv import conformer_conv
from seamless_kernels.conv1d import conv1d, pack_conv_weight
from seamless_kernels.conv_transpose1d import conv_transpose1d, pack_conv_transpose_weight

_UNITS = 500  # units, and frames of the speech encoder, of 10 s
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
        elements, found = clips * _UNITS * DIM, {"ours": conformer_conv, **setup.library(eager)}
        flops, least_bytes = elements * (2.0 * taps + 20.0), 3.0 * elements * setup.dtype.itemsize
        yield Case(f"{clips} × {_UNITS} frames × {DIM}", partial(inputs, clips), found, flops, least_bytes)


# Name, channels in and out, taps, frames of a clip, slope of the leaky ReLU before; whether all but x is float32.
_CONVOLUTIONS = (
    ("T2U layer", DIM, DIM, 7, _UNITS, 0.0, False),
    ("T2U durations", DIM, MODEL.t2u_variance_predictor_hidden_dim, 3, 120, None, True),
    ("vocoder durations", _UNIT_DIM, _UNIT_DIM, 3, _UNITS, None, True),
    ("vocoder first", _UNIT_DIM + _VOICE_DIM, _CHANNELS[0], 7, _UNITS, None, False),
    ("vocoder last", _CHANNELS[-1], 1, 7, _LENGTHS[-1], 0.01, True),
)


def conv1d_cases(setup: Setup) -> Iterator[Case]:
    """T2U's layers and the ends of the vocoder."""
    for name, channels, out, taps, length, slope, wide in setup.pick(_CONVOLUTIONS[3:], _CONVOLUTIONS):

        def ours(x: Tensor, _: Any, packed: Any, bias: Tensor, cu_seqlens: Tensor, slope: Any = slope) -> Tensor:
            return conv1d(x, packed, bias, cu_seqlens, leaky_slope=slope)

        def library(clips: int, x: Tensor, weight: Tensor, bias: Tensor, slope: Any = slope) -> Tensor:
            return F.conv1d(_image(x.to(weight.dtype), clips, slope), weight, bias, padding=weight.shape[-1] // 2)

        dtype = torch.float32 if wide else setup.dtype
        shape = (out, channels, taps), channels, out, length, 1
        yield from _convolution(setup, name, shape, pack_conv_weight, ours, library, dtype)


def conv_transpose1d_cases(setup: Setup) -> Iterator[Case]:
    """The vocoder's upsampling."""
    for stage in range(setup.pick(2, _STAGES)):
        channels, out, stride = *_CHANNELS[stage : stage + 2], MODEL.upsample_rates[stage]

        def ours(x: Tensor, _: Any, packed: Any, bias: Tensor, cu_seqlens: Tensor, stride: int = stride) -> Tensor:
            return conv_transpose1d(x, packed, bias, cu_seqlens, stride=stride, leaky_slope=_SLOPE)

        def library(clips: int, x: Tensor, weight: Tensor, bias: Tensor, stride: int = stride) -> Tensor:
            padding = (weight.shape[-1] - stride) // 2
            return F.conv_transpose1d(_image(x, clips, _SLOPE), weight, bias, stride=stride, padding=padding)

        shape = (channels, out, MODEL.upsample_kernel_sizes[stage]), channels, out, _LENGTHS[stage], stride
        yield from _convolution(setup, f"× {stride},", shape, pack_conv_transpose_weight, ours, library, setup.dtype)


def _convolution(
    setup: Setup, name: str, shape: Any, pack: Any, ours: Any, library: Callable[..., Tensor], dtype: torch.dtype
) -> Iterator[Case]:
    """shape: of the weight, channels in and out, frames of a clip, frames out of each. ours gets the packed weight."""
    weight_shape, channels, out, length, stride = shape
    weights = channels * out * weight_shape[-1]
    for clips in setup.pick((1,), (1, 8, 64)):

        def inputs(clips: int = clips) -> tuple[Any, ...]:
            weight = setup.randn(*weight_shape, dtype=dtype, scale=(weights / out) ** -0.5)
            bias, cu_seqlens = setup.randn(out, dtype=dtype), setup.cu_seqlens(clips, length)
            return setup.randn(clips * length, channels), weight, pack(weight), bias, cu_seqlens

        def theirs(x: Tensor, weight: Tensor, _: Any, bias: Tensor, __: Any, clips: int = clips) -> Tensor:
            return _packed(library(clips, x, weight, bias)).reshape(-1, out)

        yield Case(
            f"{name} {channels} → {out}, {clips} × {length} frames",
            inputs,
            {"ours": ours, **setup.library(theirs)},
            flops=2.0 * clips * length * weights,
            least_bytes=float(clips * length * channels * setup.dtype.itemsize)
            + (clips * length * out * stride + weights) * dtype.itemsize,
        )


def residual_block_cases(setup: Setup) -> Iterator[Case]:
    """The last block of three of each stage of the vocoder: 2 · k · dim² operations a frame in each convolution."""
    for stage in range(1, 1 + setup.pick(2, _STAGES)):
        for taps in setup.pick((3,), MODEL.resblock_kernel_sizes):
            for clips in setup.pick((1,), (1, 8, 64)):
                yield _residual_block(setup, _CHANNELS[stage], _LENGTHS[stage], taps, clips)


def _residual_block(setup: Setup, dim: int, length: int, taps: int, clips: int) -> Case:
    total, dilations = clips * length, MODEL.resblock_dilation_sizes[0]
    options = {"dilations": dilations, "leaky_slope": _SLOPE, "scale": 1 / 3}

    def inputs() -> tuple[Any, ...]:
        x, others = setup.randns(2, total, dim)
        weights = setup.randns(2 * len(dilations), dim, dim, taps, scale=(dim * taps) ** -0.5)
        packed = residual_block.pack_residual_block(weights), [pack_conv_weight(weight) for weight in weights]
        return x, others, weights, packed, setup.randn(len(weights), dim), setup.cu_seqlens(clips, length)

    def of_packed(call: Callable[..., Tensor], kind: int) -> Callable[..., Tensor]:
        return lambda x, others, _, packed, biases, bounds: call(
            x, packed[kind], biases, bounds, total=others, **options
        )

    def library(x: Tensor, others: Tensor, weights: tuple[Tensor, ...], _: Any, biases: Tensor, __: Tensor) -> Tensor:
        image = _image(x, clips)
        for i, dilation in enumerate(dilations):
            h, padding = F.leaky_relu(image, _SLOPE), taps // 2 * dilation
            h = F.leaky_relu(F.conv1d(h, weights[2 * i], biases[2 * i], padding=padding, dilation=dilation), _SLOPE)
            image = image + F.conv1d(h, weights[2 * i + 1], biases[2 * i + 1], padding=taps // 2)
        return (others + _packed(image)) / 3

    found = {
        "ours": of_packed(residual_block.residual_block, 0),
        "conv1d": of_packed(residual_block.reference, 1),
        **setup.library(library),
    }
    flops, elements = 2.0 * total * dim * dim * taps * 6, 3 * total * dim + 6 * dim * dim * taps
    name = f"{dim} channels, k = {taps}, {clips} × {length} frames"
    return Case(name, inputs, found, flops, float(elements * setup.dtype.itemsize))
