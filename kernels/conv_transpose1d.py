"""Transposed 1-D convolution over packed segments, channels last: every segment grows by exactly `stride`.

y[s] = b + Σ_{t, τ : t · stride + τ − padding = s} W[:, :, τ]ᵀ · act(x[t]),    padding = (k − stride) / 2
x [total, in], W [in, out, k], b [out], cu_seqlens int32 [n + 1]  →  [total · stride, out];   act: leaky ReLU
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F

from seamless_kernels.dispatch import backend_for


def pack_conv_transpose_weight(weight: torch.Tensor) -> torch.Tensor:
    """`weight` [in, out, k] as `conv_transpose1d` reads it: [in, out, 1, k], channels innermost."""
    return weight[:, :, None, :].contiguous(memory_format=torch.channels_last)


def conv_transpose1d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    cu_seqlens: torch.Tensor,
    *,
    stride: int,
    leaky_slope: float,
) -> torch.Tensor:
    return IMPLS[backend_for(x, IMPLS)](x, weight, bias, cu_seqlens, stride=stride, leaky_slope=leaky_slope)


def reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    cu_seqlens: torch.Tensor,
    *,
    stride: int,
    leaky_slope: float,
) -> torch.Tensor:
    bounds = cu_seqlens.tolist()
    padding = (weight.shape[-1] - stride) // 2
    parts = []
    for start, end in pairwise(bounds):
        image = F.leaky_relu(x[start:end], leaky_slope).T[None, :, None, :]  # [1, in, 1, T]
        grown = F.conv_transpose2d(image, weight, bias, stride=(1, stride), padding=(0, padding))
        parts.append(grown[0, :, 0].T)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


IMPLS = {"torch": reference}
