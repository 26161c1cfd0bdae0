"""Unit HiFi-GAN: units, a language and a voice → 16 kHz samples, 320 a unit frame.

A clip is made in windows of frames, each read with as many frames around it as its samples depend on. What a window
reads beyond the ends of the clip is zero in every layer; what it computes beyond its own needs is dropped on the way.
So long clips need no more memory than short ones, and a clip that is wanted piece by piece gets the same samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch

from seamless_engine.config import ModelConfig
from seamless_engine.models.layers import VariancePredictor, Weights, frame_counts
from seamless_kernels.conv_transpose1d import conv_transpose1d, pack_conv_transpose_weight
from seamless_kernels.residual_block import pack_residual_block, residual_block
from seamless_kernels.upsample import upsample

_TAPS = 7  # of the first and of the last convolution
_LAST_SLOPE = 0.01  # torch's default: the reference forgets its own setting there, and the checkpoint was trained so
# Frames of a window, and of a pass of windows. With the published dims 21 frames on either side are made for nothing,
# and a tensor has 20 KB a frame.
_WINDOW = {"cpu": 512, "cuda": 1024}
_PASS = {"cpu": 1, "cuda": 16_384}


@dataclass(frozen=True)
class Clips:
    """Units int64 [total] of the packed frames of n clips, and the voice of each.

    bounds: n + 1 numbers on the host. languages, speakers: int64 [n].
    """

    units: torch.Tensor
    bounds: list[int]
    languages: torch.Tensor
    speakers: torch.Tensor


class Window(NamedTuple):
    """Frames `start` to `end` of a clip."""

    clip: int
    start: int
    end: int


class Vocoder:
    def __init__(self, weights: Weights, config: ModelConfig) -> None:
        self.durations = VariancePredictor(weights.at("dur_predictor"))
        self.unit_embedding = weights.tensor("unit_embedding.weight")
        self.speaker_embedding = weights.tensor("speaker_embedding.weight")
        self.language_embedding = weights.tensor("language_embedding.weight")
        generator = weights.at("hifi_gan")
        self.conv_pre = generator.conv("conv_pre")
        kernels = len(config.resblock_kernel_sizes)
        self.stages = [UpsampleStage(generator, i, kernels, config) for i in range(len(config.upsample_rates))]
        self.conv_post = generator.conv("conv_post", torch.float32)
        self.samples_per_frame = config.samples_per_frame
        self.margins = margins(config)
        device = self.unit_embedding.device.type
        self.window, self.pass_frames = _WINDOW[device], _PASS[device]

    def clips(
        self,
        units: torch.Tensor,
        cu_seqlens: torch.Tensor,
        languages: torch.Tensor,
        speakers: torch.Tensor,
        predicted: Sequence[bool],
    ) -> Clips:
        """units int64 [total] of n clips, languages and speakers int64 [n].

        predicted: whether a clip's units last as long as the predictor here says, or one frame each.
        Lengths are read back here, once. Raises NumericalError for durations that are none.
        """
        durations = torch.ones_like(units)
        if any(predicted):
            wanted = upsample(torch.tensor(predicted, device=units.device), cu_seqlens.diff().long(), len(units))
            durations = torch.where(wanted, self.durations(self.unit_embedding[units], cu_seqlens), durations)
        bounds = [0, *accumulate(frame_counts(durations, cu_seqlens))]
        return Clips(upsample(units, durations, bounds[-1]), bounds, languages, speakers)

    def passes(self, clips: Clips) -> Iterator[list[Window]]:
        """The windows of all clips in order, as many together as a pass takes."""
        chosen: list[Window] = []
        for clip, (first, last) in enumerate(pairwise(clips.bounds)):
            for start in range(0, last - first, self.window):
                window = Window(clip, start, min(start + self.window, last - first))
                if chosen and sum(w.end - w.start for w in chosen) + window.end - start > self.pass_frames:
                    yield chosen
                    chosen = []
                chosen.append(window)
        if chosen:
            yield chosen

    def __call__(self, clips: Clips, windows: Sequence[Window]) -> torch.Tensor:
        """The samples of the windows, one after another: float32 [frames of all · samples_per_frame]."""
        device, margin = clips.units.device, self.margins[0]
        around = []  # of the frames that the samples of a window depend on, those that its clip has
        spans = []
        for clip, start, end in windows:
            first, last = clips.bounds[clip : clip + 2]
            before, after = min(start, margin), min(last - first - end, margin)
            around.append((before, after))
            spans.append(clips.units[first + start - before : first + end + after])
        units = torch.cat(spans)
        bounds = [0, *accumulate(map(len, spans))]
        clip = torch.tensor([window.clip for window in windows])
        owner = torch.repeat_interleave(clip, torch.tensor(bounds).diff(), output_size=bounds[-1]).to(device)
        language = self.language_embedding[clips.languages[owner]]
        speaker = self.speaker_embedding[clips.speakers[owner]]
        rows = _Rows.of(torch.cat([language, self.unit_embedding[units], speaker], dim=1), bounds, around)
        rows = rows.grown(self.conv_pre(rows.x, rows.cu_seqlens))
        for stage, needed in zip(self.stages, self.margins[1:], strict=True):
            rows = rows.cut(needed)
            rows = rows.grown(stage(rows.x, rows.cu_seqlens), stage.stride)
        rows = rows.grown(self.conv_post(rows.x, rows.cu_seqlens, leaky_slope=_LAST_SLOPE))
        return torch.tanh(rows.cut(0).x[:, 0])


@dataclass(frozen=True)
class _Rows:
    """x [rows, dim] of windows side by side. around: of each, how many rows lie before and after its own."""

    x: torch.Tensor
    bounds: list[int]
    around: list[tuple[int, int]]
    cu_seqlens: torch.Tensor  # the bounds on the device

    @classmethod
    def of(cls, x: torch.Tensor, bounds: list[int], around: list[tuple[int, int]]) -> _Rows:
        return cls(x, bounds, around, torch.tensor(bounds, dtype=torch.int32, device=x.device))

    def cut(self, margin: int) -> _Rows:
        """Without the rows that lie more than `margin` before and after each window."""
        if all(max(pair) <= margin for pair in self.around):
            return self
        parts = [
            self.x[start + max(before - margin, 0) : end - max(after - margin, 0)]
            for (start, end), (before, after) in zip(pairwise(self.bounds), self.around, strict=True)
        ]
        x = parts[0] if len(parts) == 1 else torch.cat(parts)
        kept = [(min(before, margin), min(after, margin)) for before, after in self.around]
        return _Rows.of(x, [0, *accumulate(map(len, parts))], kept)

    def grown(self, x: torch.Tensor, stride: int = 1) -> _Rows:
        """What a layer made of them: `stride` rows x of each row."""
        bounds = [bound * stride for bound in self.bounds]
        around = [(before * stride, after * stride) for before, after in self.around]
        return _Rows(x, bounds, around, self.cu_seqlens * stride)


def reach(kernel: int, dilation: int = 1) -> int:
    """Rows on either side that a convolution reads."""
    return (kernel - 1) // 2 * dilation


def margins(config: ModelConfig) -> list[int]:
    """Rows on either side of a window that its samples depend on: before `conv_pre`, and before each stage.

    From the last convolution backwards. A stage's blocks reach over m rows of its output; with k taps and stride s, the
    upsampler makes these and the window's own from ⌊(m + (k − s) / 2 − 1) / s⌋ + 1 more rows of its input.
    """
    blocks = zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
    widest = max(sum(reach(kernel, dilation) + reach(kernel) for dilation in dilations) for kernel, dilations in blocks)
    found = [reach(_TAPS)]
    for stride, kernel in reversed(list(zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True))):
        found.append((found[-1] + widest + (kernel - stride) // 2 - 1) // stride + 1)
    return [found[-1] + reach(_TAPS), *reversed(found[1:])]


class UpsampleStage:
    """Transposed convolution, then the mean of residual blocks of several kernel sizes."""

    def __init__(self, weights: Weights, index: int, kernels: int, config: ModelConfig) -> None:
        self.stride = config.upsample_rates[index]
        self.slope = config.leaky_relu_slope
        self.weight = pack_conv_transpose_weight(weights.tensor(f"upsampler.{index}.weight"))
        self.bias = weights.tensor(f"upsampler.{index}.bias")
        self.blocks = [
            ResidualBlock(weights.at(f"resblocks.{index * kernels + i}"), dilations, self.slope)
            for i, dilations in enumerate(config.resblock_dilation_sizes)
        ]

    def __call__(self, x: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
        """x [total, in] → [total · stride, in / 2]; cu_seqlens are those of x."""
        x = conv_transpose1d(x, self.weight, self.bias, cu_seqlens, stride=self.stride, leaky_slope=self.slope)
        cu_seqlens = cu_seqlens * self.stride
        total = None
        for block in self.blocks[:-1]:
            total = block(x, cu_seqlens, total)
        return self.blocks[-1](x, cu_seqlens, total, 1.0 / len(self.blocks))


class ResidualBlock:
    """For each dilation: x += conv(leaky(conv_dilated(leaky(x))))."""

    def __init__(self, weights: Weights, dilations: tuple[int, ...], slope: float) -> None:
        self.dilations = dilations
        self.slope = slope
        names = [f"convs{part}.{i}" for i in range(len(dilations)) for part in (1, 2)]
        self.weights = pack_residual_block([weights.tensor(f"{name}.weight") for name in names])
        self.biases = torch.stack([weights.tensor(f"{name}.bias") for name in names])

    def __call__(
        self, x: torch.Tensor, cu_seqlens: torch.Tensor, total: torch.Tensor | None, scale: float = 1.0
    ) -> torch.Tensor:
        """scale · (total + block(x)), with the sum of the blocks before this one."""
        return residual_block(
            x,
            self.weights,
            self.biases,
            cu_seqlens,
            dilations=self.dilations,
            leaky_slope=self.slope,
            total=total,
            scale=scale,
        )
