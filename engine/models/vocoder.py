"""Unit HiFi-GAN: units, a language and a voice → 16 kHz samples, 320 a unit frame."""

from __future__ import annotations

from itertools import pairwise

import torch

from seamless_engine.config import ModelConfig
from seamless_engine.models.layers import VariancePredictor, Weights, stretch
from seamless_kernels.conv_transpose1d import conv_transpose1d, pack_conv_transpose_weight
from seamless_kernels.upsample import upsample

_LAST_SLOPE = 0.01  # torch's default: the reference forgets its own setting there, and the checkpoint was trained so


class Vocoder:
    def __init__(self, weights: Weights, config: ModelConfig) -> None:
        self.durations = VariancePredictor(weights.at("dur_predictor"))
        self.unit_embedding = weights.tensor("unit_embedding.weight")
        self.speaker_embedding = weights.tensor("speaker_embedding.weight")
        self.language_embedding = weights.tensor("language_embedding.weight")
        generator = weights.at("hifi_gan")
        self.slope = config.leaky_relu_slope
        self.conv_pre = generator.conv("conv_pre")
        kernels = len(config.resblock_kernel_sizes)
        self.stages = [UpsampleStage(generator, i, kernels, config) for i in range(len(config.upsample_rates))]
        self.conv_post = generator.conv("conv_post", torch.float32)

    def __call__(
        self,
        units: torch.Tensor,
        cu_seqlens: torch.Tensor,
        languages: torch.Tensor,
        speakers: torch.Tensor,
        predicted: torch.Tensor,
    ) -> list[torch.Tensor]:
        """units int64 [total], languages and speakers int64 [n] → n waveforms, float32 [samples].

        predicted bool [n]: whether a clip's units last as long as the predictor here says, or one frame each.
        """
        x = self.unit_embedding[units]
        durations = torch.where(
            upsample(predicted, cu_seqlens.diff().long(), len(units)), self.durations(x, cu_seqlens), 1
        )
        x, frames, cu_frames = stretch(x, durations, cu_seqlens)
        total = len(x)
        language = upsample(self.language_embedding[languages], frames, total)
        speaker = upsample(self.speaker_embedding[speakers], frames, total)
        x = self.conv_pre(torch.cat([language, x, speaker], dim=1), cu_frames)
        for stage in self.stages:
            x, cu_frames = stage(x, cu_frames)
        x = self.conv_post(x.float(), cu_frames, leaky_slope=_LAST_SLOPE)[:, 0]
        # tanh clip by clip: over the whole tensor its last bit would depend on where the clip lies.
        return [torch.tanh(x[start:end]) for start, end in pairwise(cu_frames.tolist())]


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

    def __call__(self, x: torch.Tensor, cu_seqlens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = conv_transpose1d(x, self.weight, self.bias, cu_seqlens, stride=self.stride, leaky_slope=self.slope)
        cu_seqlens = cu_seqlens * self.stride
        total = self.blocks[0](x, cu_seqlens)
        for block in self.blocks[1:]:
            total += block(x, cu_seqlens)
        return total / len(self.blocks), cu_seqlens


class ResidualBlock:
    """For each dilation: x += conv(leaky(conv_dilated(leaky(x))))."""

    def __init__(self, weights: Weights, dilations: tuple[int, ...], slope: float) -> None:
        self.dilations = dilations
        self.slope = slope
        self.convs1 = [weights.conv(f"convs1.{i}") for i in range(len(dilations))]
        self.convs2 = [weights.conv(f"convs2.{i}") for i in range(len(dilations))]

    def __call__(self, x: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
        for dilation, conv1, conv2 in zip(self.dilations, self.convs1, self.convs2, strict=True):
            h = conv1(x, cu_seqlens, dilation=dilation, leaky_slope=self.slope)
            x = conv2(h, cu_seqlens, leaky_slope=self.slope, residual=x)
        return x
