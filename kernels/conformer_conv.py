"""The middle of the Conformer convolution module over packed segments, between its two pointwise products.

    y = GLU(x);  z[t] = Σ_τ w[τ] · y[t − (k−1) + τ]  (causal, depthwise);  out = SiLU(LayerNorm(z))
    x [total, 2·dim], w [dim, k], cu_seqlens int32 [n + 1]  →  [total, dim]

Taps before the start of a segment read zero. Rows from valid[i] on (the half-real frame) count as zero.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from seamless_kernels.dispatch import backend_for


def conformer_conv(
    x: torch.Tensor,
    depthwise_weight: torch.Tensor,
    norm_weight: torch.Tensor,
    norm_bias: torch.Tensor,
    cu_seqlens: torch.Tensor,
    valid: torch.Tensor,
) -> torch.Tensor:
    return IMPLS[backend_for(x, IMPLS)](x, depthwise_weight, norm_weight, norm_bias, cu_seqlens, valid)


def reference(
    x: torch.Tensor,
    depthwise_weight: torch.Tensor,
    norm_weight: torch.Tensor,
    norm_bias: torch.Tensor,
    cu_seqlens: torch.Tensor,
    valid: torch.Tensor,
) -> torch.Tensor:
    dim, taps = depthwise_weight.shape
    bounds = cu_seqlens.tolist()
    out = x.new_empty(x.shape[0], dim)
    for start, end, count in zip(bounds, bounds[1:], valid.tolist(), strict=False):
        gated = x.new_zeros(taps - 1 + end - start, dim)
        gated[taps - 1 : taps - 1 + count] = F.glu(x[start : start + count], dim=-1)
        mixed = F.conv1d(gated.T[None], depthwise_weight[:, None], groups=dim)[0].T  # [T, dim]
        out[start:end] = F.silu(F.layer_norm(mixed, (dim,), norm_weight, norm_bias))
    return out


IMPLS = {"torch": reference}
