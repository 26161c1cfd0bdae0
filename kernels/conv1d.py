"""1-D convolution over packed segments, channels last, with the epilogues of a HiFi-GAN block and of the T2U layers.

    y[t] = residual[t] + b + Σ_τ W[:, :, τ] · act(x[t + (τ − (k−1)/2) · dilation])       "same" length, odd k
    x [total, in], W [out, in, k], b [out], cu_seqlens int32 [n + 1]  →  [total, out];   act: none or leaky ReLU

Taps outside a segment read zero, so a segment's samples do not depend on its neighbours.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F

from seamless_kernels.dispatch import backend_for


def pack_conv_weight(weight: torch.Tensor) -> torch.Tensor:
    """`weight` [out, in, k] as `conv1d` reads it: [out, in, 1, k] with the input channels innermost."""
    return weight[:, :, None, :].contiguous(memory_format=torch.channels_last)


def conv1d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    cu_seqlens: torch.Tensor,
    *,
    dilation: int = 1,
    leaky_slope: float | None = None,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    return IMPLS[backend_for(x, IMPLS)](
        x, weight, bias, cu_seqlens, dilation=dilation, leaky_slope=leaky_slope, residual=residual
    )


def reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    cu_seqlens: torch.Tensor,
    *,
    dilation: int = 1,
    leaky_slope: float | None = None,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    bounds = cu_seqlens.tolist()
    halo = (weight.shape[-1] - 1) // 2 * dilation
    parts = []
    for start, end in pairwise(bounds):
        # A tensor of its own puts every segment at the same alignment.
        segment = x[start:end].clone() if leaky_slope is None else F.leaky_relu(x[start:end], leaky_slope)
        image = segment.T[None, :, None, :]  # [1, in, 1, T]: as an image of height 1, channels can stay innermost
        parts.append(F.conv2d(image, weight, bias, padding=(0, halo), dilation=(1, dilation))[0, :, 0].T)
    out = parts[0] if len(parts) == 1 else torch.cat(parts)
    return out if residual is None else out.add_(residual)


IMPLS = {"torch": reference}
