"""`conv1d` on a CPU by csrc/ops/conv1d_isa.h: two adjacent rows at a time, with Winograd's products.

Two rows of three taps take four products instead of six. The order of sums depends on the place of a row in its segment
alone, so the convolution is batch-invariant. An infinity in x becomes NaN in the rows that read it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from seamless_kernels.layout import unit_stride
from seamless_kernels.native import csrc

_PANEL = 16  # output channels of a panel


@dataclass(frozen=True)
class PackedFilter:
    """A filter [out, in, k] as the CPU kernel reads it, float32 whatever the weight's dtype.

    panels: those of `winograd_terms`, [⌈out / 16⌉, (k + ⌈k / 3⌉) · in, 16], zeros beyond `out`. The filters of a
    residual block are stacked in front.
    """

    panels: torch.Tensor


def pack(weight: torch.Tensor) -> PackedFilter:
    """`weight` [out, in, k] of any dtype, k odd."""
    terms = F.pad(winograd_terms(weight.float()), (0, 0, 0, 0, 0, -len(weight) % _PANEL))
    return PackedFilter(terms.unflatten(0, (-1, _PANEL)).permute(0, 3, 2, 1).flatten(1, 2).contiguous())


def winograd_terms(weight: torch.Tensor) -> torch.Tensor:
    """`weight` [out, in, k] transformed to compute two adjacent outputs y₀, y₁ together: [out, in, k + ⌈k / 3⌉].

    Three taps w₀ w₁ w₂ of x₀ … x₃ take four products instead of six (Winograd's F(2, 3): arXiv 1509.09308, section
    4.1):

        y₀ = (x₀ − x₂) w₀ + (x₁ + x₂) (w₀ + w₁ + w₂) / 2 + (x₂ − x₁) (w₀ − w₁ + w₂) / 2
        y₁ =                (x₁ + x₂) (w₀ + w₁ + w₂) / 2 − (x₂ − x₁) (w₀ − w₁ + w₂) / 2 + (x₁ − x₃) (−w₂)

    Two remaining taps take three products instead of four; one remaining tap takes two:

        y₀ = (x₁ − x₀) (−w₀) + x₁ (w₀ + w₁)              y₀ = x₀ w₀
        y₁ =                   x₁ (w₀ + w₁) + (x₂ − x₁) w₁        y₁ = x₁ w₀

    The order is: all terms of y₀ alone, those that both add, those with opposite signs, those of y₁ alone.
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


def convolve(
    x: torch.Tensor,
    weight: PackedFilter,
    bias: torch.Tensor,
    cu_seqlens: torch.Tensor,
    *,
    dilation: int = 1,
    leaky_slope: float | None = None,
    residual: torch.Tensor | None = None,
    scale: float = 1.0,
) -> torch.Tensor:
    """`conv1d` with a filter that `pack` made."""
    assert csrc is not None
    x = unit_stride(x.float())
    out = x.new_empty(len(x), len(bias))
    csrc.conv1d(
        x.numpy(),
        weight.panels.numpy(),
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
