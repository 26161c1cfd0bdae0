"""The generator of HiFi-GAN (arXiv 2010.05646): a vector for each frame → samples.

For windows of longer clips, it drops the frames between two layers that no later layer needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import torch

from seamless_engine.config import ModelConfig
from seamless_engine.models.layers import Weights
from seamless_kernels.conv_transpose1d import conv_transpose1d, pack_conv_transpose_weight
from seamless_kernels.residual_block import pack_residual_block, residual_block
from seamless_kernels.transfer import upload

_TAPS = 7  # of the first and of the last convolution
_LAST_SLOPE = 0.01  # torch's default, not the config's slope: the reference and the training have it


class Generator:
    def __init__(self, weights: Weights, config: ModelConfig) -> None:
        self.conv_pre = weights.conv("conv_pre")
        kernels = len(config.resblock_kernel_sizes)
        self.stages = [UpsampleStage(weights, i, kernels, config) for i in range(len(config.upsample_rates))]
        self.conv_post = weights.conv("conv_post", torch.float32)
        self.margins = margins(config)

    def __call__(self, x: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
        """The samples of clips x [total frames, dim] that are not cut: float32 [total frames · samples_per_frame]."""
        return self.windows(PackedWindows(x, [], [], cu_seqlens))  # no bounds on the host, so nothing is trimmed

    def windows(self, packed: PackedWindows) -> torch.Tensor:
        """The samples of windows, without those of their context."""
        packed = packed.replaced(self.conv_pre(packed.x, packed.cu_seqlens))
        for stage, needed in zip(self.stages, self.margins[1:], strict=True):
            packed = packed.trimmed(needed)
            packed = packed.replaced(stage(packed.x, packed.cu_seqlens), stage.stride)
        packed = packed.replaced(self.conv_post(packed.x, packed.cu_seqlens, leaky_slope=_LAST_SLOPE))
        packed = packed.trimmed(0)
        samples = packed.x[:, 0]
        if not packed.bounds or samples.device.type != "cpu":
            return torch.tanh(samples)
        # Each window from a copy: torch can compute tanh in another way for the last elements of a thread's share.
        return torch.cat([torch.tanh(samples[start:end].clone()) for start, end in pairwise(packed.bounds)])


@dataclass(frozen=True)
class PackedWindows:
    """x [total, dim] of windows one after another, each with frames before and after it as context.

    After an upsampling layer a frame is one of its outputs, up to one sample. Without bounds and context, x are clips.
    """

    x: torch.Tensor
    bounds: list[int]
    context: list[tuple[int, int]]  # of each window, the frames before and after it
    cu_seqlens: torch.Tensor  # the bounds on the device

    @classmethod
    def of(cls, x: torch.Tensor, bounds: list[int], context: list[tuple[int, int]]) -> PackedWindows:
        return cls(x, bounds, context, *upload(x.device, np.array(bounds, dtype=np.int32)))

    def trimmed(self, margin: int) -> PackedWindows:
        """With at most `margin` frames of context on either side."""
        if all(max(pair) <= margin for pair in self.context):
            return self
        parts = [
            self.x[start + max(before - margin, 0) : end - max(after - margin, 0)]
            for (start, end), (before, after) in zip(pairwise(self.bounds), self.context, strict=True)
        ]
        x = parts[0] if len(parts) == 1 else torch.cat(parts)
        context = [(min(before, margin), min(after, margin)) for before, after in self.context]
        return PackedWindows.of(x, [0, *accumulate(map(len, parts))], context)

    def replaced(self, x: torch.Tensor, stride: int = 1) -> PackedWindows:
        """With the outputs x of a layer that makes `stride` frames of each."""
        bounds = [bound * stride for bound in self.bounds]
        context = [(before * stride, after * stride) for before, after in self.context]
        return PackedWindows(x, bounds, context, self.cu_seqlens * stride)


def reach(kernel: int, dilation: int = 1) -> int:
    """The frames on either side that a convolution reads."""
    return (kernel - 1) // 2 * dilation


def margins(config: ModelConfig) -> list[int]:
    """The frames on either side of a window that its samples depend on: before `conv_pre`, and before each stage.

    Computed from the last convolution backwards. The samples depend on m frames on either side after the upsampler of a
    stage, which has k taps and stride s; before it, that is ⌊(m + (k − s) / 2 − 1) / s⌋ + 1 frames.
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
        """scale · (total + block(x)); total: the sum of the blocks before this one."""
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
