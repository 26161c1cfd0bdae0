"""Conformer self-attention with clipped relative keys (Shaw et al. 2018, arXiv 1803.02155), packed.

    score[i, j] = (q_i · k_j + q_i · E[clamp(j − i, −left, right) + left]) / sqrt(d)      j over the keys of i's chunk
    q, k, v [total, heads, d], E [left + right + 1, d] for all heads, cu_seqlens int32 [n + 1]  →  [total, heads, d]

Chunk rule: row i of a segment is in chunk c = i // chunk_size and sees the keys from chunk c − left_chunks (all, if
left_chunks is negative) to the end of chunk c. `valid` int32 [n] bounds the keys: the half-real last row of an odd
clip is a query but never a key. The relative term is the product q · Eᵀ, gathered: nothing of size T × T × d exists.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F

from seamless_kernels.dispatch import backend_for

_QUERIES = 512  # rows of the score matrix that the reference holds at a time


def rel_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    distance_embedding: torch.Tensor,
    cu_seqlens: torch.Tensor,
    valid: torch.Tensor,
    *,
    left: int,
    chunk_size: int,
    left_chunks: int,
) -> torch.Tensor:
    return IMPLS[backend_for(q, IMPLS)](
        q, k, v, distance_embedding, cu_seqlens, valid, left=left, chunk_size=chunk_size, left_chunks=left_chunks
    )


def reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    distance_embedding: torch.Tensor,
    cu_seqlens: torch.Tensor,
    valid: torch.Tensor,
    *,
    left: int,
    chunk_size: int,
    left_chunks: int,
) -> torch.Tensor:
    bounds = cu_seqlens.tolist()
    right = distance_embedding.shape[0] - 1 - left
    scale = 1.0 / math.sqrt(q.shape[-1])
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    for start, end, count in zip(bounds, bounds[1:], valid.tolist(), strict=False):
        queries = q[start:end].transpose(0, 1).contiguous()  # [heads, T, d]
        keys = k[start:end].transpose(0, 1).contiguous()
        values = v[start:end].transpose(0, 1).contiguous()
        rows = end - start
        # Blocks of queries bound the memory; cut at the chunks too, so that all rows of a block see the same keys.
        cuts = sorted({*range(0, rows, _QUERIES), *range(0, rows, chunk_size), rows})
        for first, last in pairwise(cuts):
            chunk = first // chunk_size
            low = 0 if left_chunks < 0 else max(chunk - left_chunks, 0) * chunk_size
            high = min((chunk + 1) * chunk_size, count)
            if low >= high:  # only a half-real row can see no key at all; a masked softmax is uniform then
                out[start + first : start + last] = values.mean(1)
                continue
            block = queries[:, first:last].contiguous()
            relative = block @ distance_embedding.T  # [heads, block, left + right + 1]
            distance = torch.arange(low, high, device=q.device) - torch.arange(first, last, device=q.device)[:, None]
            column = (distance.clamp(-left, right) + left).expand(len(block), -1, -1)
            bias = relative.gather(-1, column) * scale  # [heads, block, keys]
            mixed = F.scaled_dot_product_attention(
                block[None], keys[None, :, low:high], values[None, :, low:high], attn_mask=bias[None], scale=scale
            )
            out[start + first : start + last] = mixed[0].transpose(0, 1)
    return out


IMPLS = {"torch": reference}
