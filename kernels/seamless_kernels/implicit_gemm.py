"""What the convolutions share: implicit GEMM, a matrix product whose left operand is read from x and never stored.

    y[t] = Σ_j A[t, j] · W[:, j],    A[t, τ · in + c] = x[t + (τ − (k−1)/2) · dilation, c]          j < k · in

Row t of A is the rows of x that the k taps of output t read, one after the other. An activation is applied to x before,
once: in the loop it would be computed at each tap, and take more instructions than the products of 64 columns.

In float32 each operand is split into two TF32 numbers, x = x₁ + x₂ with |x₂| ≤ 2⁻¹¹ |x|, and x₂ is cut to TF32: x · w ≈
x₁ · w₁ + x₁ · w₂ + x₂ · w₁. What is left out is at most 2⁻²¹ |x · w| for each of the two cut numbers and 2⁻²² for x₂ ·
w₂. The products of a step are summed by matrix instructions and then added in float32, so BLOCK_K decides bits.
"""

from __future__ import annotations

import torch

from seamless_kernels.jit import jit, tl


@jit
def leaky_relu(x, slope):
    """x, or slope · x where it is negative, in float32; a NaN stays."""
    x = x.to(tl.float32)
    return tl.where(x > 0, x, x * slope)


@jit
def conv_k_loop(
    acc,
    x_ptr,
    w_ptr,
    offs_m,
    offs_n,
    first_row,
    end_row,
    taps,
    dilation,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """acc, float32 [BLOCK_M, BLOCK_N], plus the products of all taps and channels: BLOCK_K channels of every tap, then
    the next BLOCK_K channels; with fewer channels, or groups, taps in order and channels within a tap.

    x_ptr points at row 0; only rows first_row … end_row − 1 are read. Column g · OUT + c of the tile is channel c of
    row offs_m + g · dilation, g < GROUP: rows that read nearly the same rows of x share one product, in which the
    weight of what a row does not read is zero. Adding these zeros does not change a sum.
    """
    offs_k = tl.arange(0, BLOCK_K)
    K = taps * IN
    w_ptr += (offs_n % OUT)[:, None] * K
    shift = (offs_n // OUT * IN)[:, None]
    start_k = 0
    for _ in range(0, K + (GROUP - 1) * IN, BLOCK_K):
        k = start_k + offs_k
        row = offs_m[:, None] + ((k // IN - taps // 2) * dilation)[None, :]
        x_mask = (row >= first_row) & (row < end_row)
        if GROUP == 1 and IN % BLOCK_K != 0:
            x_mask &= (k < K)[None, :]  # beyond the last tap, zero times NaN would be NaN
        w_k = k[None, :] - shift
        if IN % BLOCK_K != 0 or GROUP > 1:
            w = tl.load(w_ptr + w_k, mask=(w_k >= 0) & (w_k < K), other=0.0, cache_modifier=".ca")
        else:
            w = tl.load(w_ptr + w_k, cache_modifier=".ca")
        # .ca: through the L1 cache, because the next step reads nearly the same rows and channels
        x = tl.load(x_ptr + (row * IN + (k % IN)[None, :]), mask=x_mask, other=0.0, cache_modifier=".ca")
        acc = tl.dot(x.to(w.dtype), tl.trans(w), acc, input_precision="tf32x3")
        if IN % BLOCK_K == 0 and GROUP == 1:
            start_k += IN
            start_k = tl.where(start_k < K, start_k, start_k - K + BLOCK_K)
        else:
            start_k += BLOCK_K
    return acc


def taps_outermost(weight: torch.Tensor) -> torch.Tensor:
    """[…, out, k · in], a view of a packed weight […, out, in, 1, k]."""
    return weight.movedim(-3, -1).flatten(-3)
