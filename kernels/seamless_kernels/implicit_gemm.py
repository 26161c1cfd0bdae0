"""What the convolutions share: the matrix product of one, whose left operand exists nowhere.

    y[t] = Σ_j A[t, j] · W[:, j],    A[t, τ · in + c] = act(x[t + (τ − (k−1)/2) · dilation, c])          j < k · in

Row t of A is the rows of x that the taps meet, one after the other, and is read from x at each step of the reduction.
"""

from __future__ import annotations

import torch

from seamless_kernels.jit import jit, tl


@jit
def leaky(x, slope):
    """x, or slope · x where it is negative, in float32; a NaN stays."""
    x = x.to(tl.float32)
    return tl.where(x > 0, x, x * slope)


@jit
def chain(
    total,
    x_ptr,
    weight_ptr,
    rows,
    columns,
    low,
    high,
    taps,
    dilation,
    slope,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """total, float32 [BLOCK_M, BLOCK_N], plus the products of taps and channels in their order.

    x_ptr is at row 0; of all rows [low, high) are read. Column g · OUT + c is channel c of row rows + g · dilation,
    g < GROUP: rows that share most of what they read are made in one product, whose weight is zero where a row does not
    reach. A sum does not feel the zeros.
    """
    k = tl.arange(0, BLOCK_K)
    inner = taps * IN
    weight_ptr += (columns % OUT)[:, None] * inner
    ahead = (columns // OUT * IN)[:, None]
    for start in range(0, inner + (GROUP - 1) * IN, BLOCK_K):
        at = start + k
        row = rows[:, None] + ((at // IN - taps // 2) * dilation)[None, :]
        known = (row >= low) & (row < high)
        if GROUP == 1 and IN % BLOCK_K != 0:
            known &= (at < inner)[None, :]  # beyond the last tap: zero times NaN would be NaN
        own = at[None, :] - ahead
        if IN % BLOCK_K != 0 or GROUP > 1:
            weight = tl.load(weight_ptr + own, mask=(own >= 0) & (own < inner), other=0.0, cache_modifier=".ca")
        else:
            weight = tl.load(weight_ptr + own, cache_modifier=".ca")
        # through the L1 cache: the next tap wants nearly the same rows
        x = tl.load(x_ptr + (row * IN + (at % IN)[None, :]), mask=known, other=0.0, cache_modifier=".ca")
        if slope is not None:
            x = leaky(x, slope)
        total = tl.dot(x.to(weight.dtype), tl.trans(weight), total, input_precision="ieee")
    return total


def by_tap(weight: torch.Tensor) -> torch.Tensor:
    """[…, out, k · in] of a packed weight […, out, in, 1, k], with which it shares its memory."""
    return weight.movedim(-3, -1).flatten(-3)
