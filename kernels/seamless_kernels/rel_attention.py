"""Conformer self-attention with clipped relative keys (Shaw et al. 2018, arXiv 1803.02155), packed.

    score[i, j] = (q_i · k_j + q_i · E[clamp(j − i, −left, right) + left]) / sqrt(d)      j over the keys of i's chunk
    q, k, v [total, heads, d], E [left + right + 1, d] for all heads, cu_seqlens int32 [n + 1]  →  [total, heads, d]

Chunk rule: token i of a segment is in chunk c = i // chunk_size and attends to the keys from chunk c − left_chunks
(all, if left_chunks is negative) to the end of chunk c. `valid` int32 [n] bounds the keys: the last token of an odd
clip, half of which is padding, is a query but never a key. The relative term is the product q · Eᵀ, gathered: nothing
of size T × T × d exists.

The kernel computes q · Eᵀ once for a tile of queries. Keys at a distance of −left or less, or of right or more, add one
number to a query; only the few tiles around the diagonal gather, and they do so without an index: the rows of q · Eᵀ,
left + right + 1 numbers each and contiguous in memory, are read again as rows of left + right numbers, which gives the
bias by key instead of by distance:

    bias[i, j] = flat[i · (left + right + 1) + (j − i + left)] = flat[i · (left + right) + j + left]
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F

from seamless_kernels.config import config_for
from seamless_kernels.dispatch import backend_for
from seamless_kernels.flash import (
    HEAD_DIMS,
    ONE_CHUNK,
    attend_unmasked_tiles,
    locate_tile,
    max_tiles,
    online_softmax_update,
)
from seamless_kernels.jit import jit, tl
from seamless_kernels.layout import unit_stride
from seamless_kernels.precision import compute_dtype

_QUERIES = 512  # of which the reference holds the scores at a time


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
    q, k, v, distance_embedding = (tensor.to(compute_dtype(tensor)) for tensor in (q, k, v, distance_embedding))
    for start, end, count in zip(bounds, bounds[1:], valid.tolist(), strict=False):
        queries = q[start:end].transpose(0, 1).contiguous()  # [heads, T, d]
        keys = k[start:end].transpose(0, 1).contiguous()
        values = v[start:end].transpose(0, 1).contiguous()
        length = end - start
        # Blocks of queries bound the memory. They are cut at the chunks too, so that all queries of a block have the
        # same keys.
        cuts = sorted({*range(0, length, _QUERIES), *range(0, length, chunk_size), length})
        for first, last in pairwise(cuts):
            chunk = first // chunk_size
            low = 0 if left_chunks < 0 else max(chunk - left_chunks, 0) * chunk_size
            high = min((chunk + 1) * chunk_size, count)
            if low >= high:  # only a half-padded token can have no key; a softmax with all keys masked is uniform
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


@jit(do_not_specialize=["segments"])
def _kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    e_ptr,
    out_ptr,
    bias_ptr,
    cu_seqlens_ptr,
    valid_ptr,
    segments,
    chunk_size,
    left_chunks,
    stride_qm,
    stride_qh,
    stride_kn,
    stride_kh,
    stride_vn,
    stride_vh,
    scale,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    # Heads first: programs that run together read whole tokens.
    head = tl.program_id(0) % HEADS
    tile = tl.program_id(0) // HEADS
    segment, segment_tile = locate_tile(cu_seqlens_ptr, segments, tile, chunk_size, BLOCK_M)
    start = tl.load(cu_seqlens_ptr + segment)
    length = tl.load(cu_seqlens_ptr + segment + 1) - start
    start = start.to(tl.int64)
    # Tiles are cut at the chunks, so that all queries of one have the same keys low … high − 1.
    tiles_per_chunk = tl.cdiv(chunk_size, BLOCK_M)
    chunk = segment_tile // tiles_per_chunk
    start_m = chunk * chunk_size + segment_tile % tiles_per_chunk * BLOCK_M
    end_m = tl.minimum((chunk + 1) * chunk_size, length)
    if start_m >= end_m:
        return
    low = tl.where(left_chunks < 0, 0, tl.maximum(chunk - left_chunks, 0) * chunk_size)
    high = tl.minimum((chunk + 1) * chunk_size, tl.load(valid_ptr + segment).to(tl.int32))

    count = tl.minimum(end_m - start_m, BLOCK_M)
    offs_m = tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, HEAD_DIM)
    m_mask = (offs_m < count)[:, None]
    q_ptrs = q_ptr + head * stride_qh + (start + start_m + offs_m)[:, None] * stride_qm + offs_d[None, :]
    q = tl.load(q_ptrs, mask=m_mask, other=0.0)
    k_ptr += head * stride_kh + start * stride_kn
    v_ptr += head * stride_vh + start * stride_vn

    # Scratch memory of this program: the rows of q · Eᵀ, and room for a tile of keys before and after them.
    room: tl.constexpr = 2 * BLOCK_N + 32
    scratch = ((start + start_m) * (LEFT + RIGHT + 1) + tile * room) // 16 * 16 * HEADS
    scratch += head * tl.cdiv(count * (LEFT + RIGHT + 1) + 2 * BLOCK_N, 16) * 16
    flat_ptr = bias_ptr + scratch + BLOCK_N
    leftmost = tl.zeros([BLOCK_M], tl.float32)
    rightmost = tl.zeros([BLOCK_M], tl.float32)
    for start_e in range(0, LEFT + RIGHT + 1, BLOCK_E):
        offs_e = start_e + tl.arange(0, BLOCK_E)
        e_mask = offs_e <= LEFT + RIGHT
        e = tl.load(e_ptr + offs_e[:, None] * HEAD_DIM + offs_d[None, :], mask=e_mask[:, None], other=0.0)
        relative = tl.dot(q, tl.trans(e), input_precision="ieee") * scale
        leftmost += tl.sum(tl.where(offs_e == 0, relative, 0.0), 1)
        rightmost += tl.sum(tl.where(offs_e == LEFT + RIGHT, relative, 0.0), 1)
        tl.store(
            flat_ptr + offs_m[:, None] * (LEFT + RIGHT + 1) + offs_e[None, :],
            relative.to(bias_ptr.dtype.element_ty),
            mask=m_mask & e_mask[None, :],
        )
    tl.debug_barrier()  # other threads of the program read what this one stored
    bias_ptrs = flat_ptr + offs_m[:, None] * (LEFT + RIGHT) + offs_n[None, :]

    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    l_i = tl.zeros([BLOCK_M], tl.float32)
    m_i = tl.full([BLOCK_M], float("-inf"), tl.float32)
    no_bias = tl.zeros([BLOCK_M], tl.float32)

    # Tiles of keys lie at fixed distances from the tile of queries; tile 0 begins at key `begin`. No query masks a key
    # of tiles [full, full_end); tiles [near, near_end) have a key within LEFT and RIGHT of some query. Of the full
    # tiles, those before `skip` and those from `skip_end` on have one bias for each query.
    diagonal = tl.cdiv(start_m - low, BLOCK_N)
    begin = start_m - diagonal * BLOCK_N
    tiles = tl.cdiv(tl.maximum(high - begin, 0), BLOCK_N)
    full = tl.minimum((low - begin + BLOCK_N - 1) // BLOCK_N, tiles)
    full_end = tl.maximum(tl.maximum(high - begin, 0) // BLOCK_N, full)
    near = tl.maximum(diagonal + (1 - LEFT) // BLOCK_N, 0)
    near_end = diagonal + tl.cdiv(count - 1 + RIGHT, BLOCK_N)
    skip = tl.minimum(tl.maximum(near, full), full_end)
    skip_end = tl.minimum(tl.maximum(near_end, skip), full_end)

    acc, l_i, m_i = attend_unmasked_tiles(
        acc,
        l_i,
        m_i,
        q,
        k_ptr,
        v_ptr,
        stride_kn,
        stride_vn,
        begin + full * BLOCK_N,
        skip - full,
        skip_end - skip,
        full_end - skip_end,
        leftmost,
        rightmost,
        scale,
        HEAD_DIM,
        BLOCK_N,
    )
    for i in range(0, tiles - (skip - full) - (full_end - skip_end)):
        t = i + tl.where(i < full, 0, skip - full)
        t += tl.where(t < skip_end, 0, full_end - skip_end)
        distance = (t - diagonal) * BLOCK_N  # from the first query to the first key
        key = start_m + distance + offs_n
        n_mask = (key >= low) & (key < high)  # of V too: 0 · NaN is NaN
        k = tl.load(k_ptr + key.to(tl.int64)[:, None] * stride_kn + offs_d[None, :], mask=n_mask[:, None], other=0.0)
        v = tl.load(v_ptr + key.to(tl.int64)[:, None] * stride_vn + offs_d[None, :], mask=n_mask[:, None], other=0.0)
        qk = tl.dot(q, tl.trans(k), input_precision="ieee")
        # Outside the tiles that are near, what is loaded is not used, and the address is any of this program's scratch.
        shift = tl.where((t >= near) & (t < near_end), distance + LEFT, 0)
        bias = tl.load(bias_ptrs + shift, mask=m_mask, other=0.0, cache_modifier=".ca").to(tl.float32)
        bias = tl.where(offs_n[None, :] <= (offs_m - LEFT - distance)[:, None], leftmost[:, None], bias)
        bias = tl.where(offs_n[None, :] >= (offs_m + RIGHT - distance)[:, None], rightmost[:, None], bias)
        qk = qk * scale + bias
        qk += tl.where(n_mask, 0.0, float("-inf"))[None, :]
        acc, l_i, m_i = online_softmax_update(acc, l_i, m_i, qk, 1.0, no_bias, v)
    if low >= high:  # a half-padded token alone in its chunk: the mean of all values, as in the reference
        total = tl.zeros([HEAD_DIM], tl.float32)
        for start_n in range(0, length, BLOCK_N):
            n_mask = (start_n + offs_n < length)[:, None]
            v_ptrs = v_ptr + (start_n + offs_n).to(tl.int64)[:, None] * stride_vn + offs_d[None, :]
            total += tl.sum(tl.load(v_ptrs, mask=n_mask, other=0.0).to(tl.float32), 0)
        acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32) + total[None, :]
        l_i = tl.zeros([BLOCK_M], tl.float32) + length
    out_ptrs = out_ptr + head * HEAD_DIM + (start + start_m + offs_m)[:, None] * (HEADS * HEAD_DIM) + offs_d[None, :]
    tl.store(out_ptrs, (acc / l_i[:, None]).to(out_ptr.dtype.element_ty), mask=m_mask)


def _triton(
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
    total, heads, dim = q.shape
    distances = distance_embedding.shape[0]
    q, k, v = unit_stride(q), unit_stride(k), unit_stride(v)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    config = config_for("rel_attention", (dim,), q.dtype, q.device)
    segments, chunk_size = len(cu_seqlens) - 1, min(chunk_size, ONE_CHUNK)
    tiles = max_tiles(total, segments, config["BLOCK_M"], chunk_size)
    # In 16 bit 146 bytes for each token and head, about as much as q; it is read while it is in the cache.
    bias = q.new_empty(heads * (total * distances + tiles * (2 * config["BLOCK_N"] + 32)))
    if total:
        _kernel[(heads * tiles,)](
            q,
            k,
            v,
            distance_embedding.contiguous(),
            out,
            bias,
            cu_seqlens,
            valid,
            segments,
            chunk_size,
            left_chunks,
            *q.stride()[:2],
            *k.stride()[:2],
            *v.stride()[:2],
            math.log2(math.e) / math.sqrt(dim),
            HEADS=heads,
            HEAD_DIM=dim,
            LEFT=left,
            RIGHT=distances - 1 - left,
            **config,
        )
    return out


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
    """Attention with relative keys within each segment, [total, heads, d], as above.

    q, k, v may be views: they are copied if their last stride is not 1. chunk_size is in tokens.
    """
    name = backend_for(q.device, IMPLS)
    if name == "triton" and q.shape[-1] not in HEAD_DIMS:
        name = "torch"
    return IMPLS[name](
        q, k, v, distance_embedding, cu_seqlens, valid, left=left, chunk_size=chunk_size, left_chunks=left_chunks
    )


IMPLS = {"torch": reference, "triton": _triton}
