"""Bidirectional attention over packed segments: softmax(q · kᵀ / sqrt(d)) · v within each segment.

    q, k, v [total, heads, d], cu_seqlens int32 [n + 1]  →  [total, heads, d]

`valid` int32 [n] bounds the keys of each segment: rows from valid[i] on exist as queries but nobody attends to them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from seamless_kernels.dispatch import backend_for


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor, valid: torch.Tensor | None = None
) -> torch.Tensor:
    return IMPLS[backend_for(q, IMPLS)](q, k, v, cu_seqlens, valid)


def reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor, valid: torch.Tensor | None = None
) -> torch.Tensor:
    # Segment by segment: the shapes of every product depend on the segment alone, and so do its bits.
    bounds = cu_seqlens.tolist()
    keys = (
        valid.tolist() if valid is not None else [end - start for start, end in zip(bounds, bounds[1:], strict=False)]
    )
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    for start, end, count in zip(bounds, bounds[1:], keys, strict=False):
        # Copies put every segment at the same alignment, which BLAS kernels look at.
        rows = q[start:end].transpose(0, 1).contiguous()  # [heads, rows, d]
        past_k = k[start : start + count].transpose(0, 1).contiguous()
        past_v = v[start : start + count].transpose(0, 1).contiguous()
        out[start:end] = F.scaled_dot_product_attention(rows[None], past_k[None], past_v[None])[0].transpose(0, 1)
    return out


IMPLS = {"torch": reference}
