"""The generator of HiFi-GAN (arXiv 2010.05646): rows that describe a frame each → samples.

Between two layers it drops the rows that nobody needs any more, for windows of longer clips.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch

from seamless_engine.config import ModelConfig
from seamless_engine.models.layers import Weights
from seamless_kernels.conv_transpose1d import conv_transpose1d, pack_conv_transpose_weight
from seamless_kernels.residual_block import pack_residual_block, residual_block

_TAPS = 7  # of the first and of the last convolution
_LAST_SLOPE = 0.01  # torch's default: the reference forgets its own setting there, and the checkpoint was trained so


class Generator:
    def __init__(self, weights: Weights, config: ModelConfig) -> None:
        self.conv_pre = weights.conv("conv_pre")
        kernels = len(config.resblock_kernel_sizes)
        self.stages = [UpsampleStage(weights, i, kernels, config) for i in range(len(config.upsample_rates))]
        self.conv_post = weights.conv("conv_post", torch.float32)
        self.margins = margins(config)

    def __call__(self, x: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
        """The samples of whole clips x [frames of all, dim]: float32 [frames · samples_per_frame]."""
        return self.within(Rows(x, [], [], cu_seqlens))  # no windows: nothing is cut, and only the device knows bounds

    def within(self, rows: Rows) -> torch.Tensor:
        """The samples of windows, without those of what lies around them."""
        rows = rows.grown(self.conv_pre(rows.x, rows.cu_seqlens))
        for stage, needed in zip(self.stages, self.margins[1:], strict=True):
            rows = rows.cut(needed)
            rows = rows.grown(stage(rows.x, rows.cu_seqlens), stage.stride)
        rows = rows.grown(self.conv_post(rows.x, rows.cu_seqlens, leaky_slope=_LAST_SLOPE))
        rows = rows.cut(0)
        samples = rows.x[:, 0]
        if not rows.bounds or samples.device.type != "cpu":
            return torch.tanh(samples)
        # Each from a copy of its own: torch may have another tanh for the tail of what a thread takes.
        return torch.cat([torch.tanh(samples[start:end].clone()) for start, end in pairwise(rows.bounds)])


@dataclass(frozen=True)
class Rows:
    """x [rows, dim] of windows side by side. around: of each, how many rows lie before and after its own."""

    x: torch.Tensor
    bounds: list[int]
    around: list[tuple[int, int]]
    cu_seqlens: torch.Tensor  # the bounds on the device

    @classmethod
    def of(cls, x: torch.Tensor, bounds: list[int], around: list[tuple[int, int]]) -> Rows:
        return cls(x, bounds, around, torch.tensor(bounds, dtype=torch.int32, device=x.device))

    def cut(self, margin: int) -> Rows:
        """Without the rows that lie more than `margin` before and after each window."""
        if all(max(pair) <= margin for pair in self.around):
            return self
        parts = [
            self.x[start + max(before - margin, 0) : end - max(after - margin, 0)]
            for (start, end), (before, after) in zip(pairwise(self.bounds), self.around, strict=True)
        ]
        x = parts[0] if len(parts) == 1 else torch.cat(parts)
        kept = [(min(before, margin), min(after, margin)) for before, after in self.around]
        return Rows.of(x, [0, *accumulate(map(len, parts))], kept)

    def grown(self, x: torch.Tensor, stride: int = 1) -> Rows:
        """What a layer made of them: `stride` rows x of each row."""
        bounds = [bound * stride for bound in self.bounds]
        around = [(before * stride, after * stride) for before, after in self.around]
        return Rows(x, bounds, around, self.cu_seqlens * stride)


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
