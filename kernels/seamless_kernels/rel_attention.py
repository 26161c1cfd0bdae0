"""Conformer self-attention with clipped relative keys (Shaw et al. 2018, arXiv 1803.02155), packed.

    score[i, j] = (q_i · k_j + q_i · E[clamp(j − i, −left, right) + left]) / sqrt(d)      j over the keys of i's chunk
    q, k, v [total, heads, d], E [left + right + 1, d] for all heads, cu_seqlens int32 [n + 1]  →  [total, heads, d]

Chunk rule: row i of a segment is in chunk c = i // chunk_size and sees the keys from chunk c − left_chunks (all, if
left_chunks is negative) to the end of chunk c. `valid` int32 [n] bounds the keys: the half-real last row of an odd
clip is a query but never a key. The relative term is the product q · Eᵀ, gathered: nothing of size T × T × d exists.

The kernel forms q · Eᵀ once for a tile of queries. Keys at a distance of −left or less, or of right or more, add one
number a row; only the few tiles about the diagonal gather, and that without an index: rows of left + right + 1 numbers,
one after the other in memory, read as rows of left + right, are the bias by key instead of by distance:

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
    absorb,
    absorb_whole_tiles,
    locate,
    rows_of_heads,
    tiles_at_most,
)
from seamless_kernels.jit import jit, tl
from seamless_kernels.precision import compute_dtype

_QUERIES = 512  # rows of the score matrix that the reference holds at a time


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


@jit(do_not_specialize=["segments"])
def _kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    e_ptr,
    out_ptr,
    bias_ptr,
    cu_seqlens,
    valid,
    segments,
    chunk_size,
    left_chunks,
    q_row,
    q_head,
    k_row,
    k_head,
    v_row,
    v_head,
    scale,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    # Heads first: the programs that run together read whole rows of memory.
    head = tl.program_id(0) % HEADS
    tile = tl.program_id(0) // HEADS
    segment, tile_here = locate(cu_seqlens, segments, tile, chunk_size, BLOCK_M)
    start = tl.load(cu_seqlens + segment)
    length = tl.load(cu_seqlens + segment + 1) - start
    start = start.to(tl.int64)
    # Tiles are cut at the chunks, so that all rows of one see the same keys: from `low` up to `high`.
    tiles_of_chunk = tl.cdiv(chunk_size, BLOCK_M)
    chunk = tile_here // tiles_of_chunk
    first = chunk * chunk_size + tile_here % tiles_of_chunk * BLOCK_M
    end = tl.minimum((chunk + 1) * chunk_size, length)
    if first >= end:
        return
    low = tl.where(left_chunks < 0, 0, tl.maximum(chunk - left_chunks, 0) * chunk_size)
    high = tl.minimum((chunk + 1) * chunk_size, tl.load(valid + segment).to(tl.int32))

    count = tl.minimum(end - first, BLOCK_M)
    rows = tl.arange(0, BLOCK_M)
    columns = tl.arange(0, BLOCK_N)
    dims = tl.arange(0, DIM)
    inside = (rows < count)[:, None]
    q_rows = q_ptr + head * q_head + (start + first + rows)[:, None] * q_row + dims[None, :]
    q = tl.load(q_rows, mask=inside, other=0.0)
    k_ptr += head * k_head + start * k_row
    v_ptr += head * v_head + start * v_row

    # What this program alone writes and reads again: its rows, and room for a tile of keys on both sides.
    room: tl.constexpr = 2 * BLOCK_N + 32
    mine = ((start + first) * (LEFT + RIGHT + 1) + tile * room) // 16 * 16 * HEADS
    mine += head * tl.cdiv(count * (LEFT + RIGHT + 1) + 2 * BLOCK_N, 16) * 16
    flat = bias_ptr + mine + BLOCK_N
    leftmost = tl.zeros([BLOCK_M], tl.float32)
    rightmost = tl.zeros([BLOCK_M], tl.float32)
    for at in range(0, LEFT + RIGHT + 1, BLOCK_E):
        distances = at + tl.arange(0, BLOCK_E)
        known = distances <= LEFT + RIGHT
        e = tl.load(e_ptr + distances[:, None] * DIM + dims[None, :], mask=known[:, None], other=0.0)
        relative = tl.dot(q, tl.trans(e), input_precision="ieee") * scale
        leftmost += tl.sum(tl.where(distances == 0, relative, 0.0), 1)
        rightmost += tl.sum(tl.where(distances == LEFT + RIGHT, relative, 0.0), 1)
        tl.store(
            flat + rows[:, None] * (LEFT + RIGHT + 1) + distances[None, :],
            relative.to(bias_ptr.dtype.element_ty),
            mask=inside & known[None, :],
        )
    tl.debug_barrier()  # the other threads of the program see it
    by_key = flat + rows[:, None] * (LEFT + RIGHT) + columns[None, :]

    acc = tl.zeros([BLOCK_M, DIM], tl.float32)
    mass = tl.zeros([BLOCK_M], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    none = tl.zeros([BLOCK_M], tl.float32)

    # Tiles of keys lie at fixed distances from the tile of queries. Of all, [whole, whole_end) are seen whole, and
    # [near, near_end) have a key nearer than LEFT or RIGHT to some query.
    to_first = tl.cdiv(first - low, BLOCK_N)
    begin = first - to_first * BLOCK_N
    tiles = tl.cdiv(tl.maximum(high - begin, 0), BLOCK_N)
    whole = tl.minimum((low - begin + BLOCK_N - 1) // BLOCK_N, tiles)
    whole_end = tl.maximum(tl.maximum(high - begin, 0) // BLOCK_N, whole)
    near = tl.maximum(to_first + (1 - LEFT) // BLOCK_N, 0)
    near_end = to_first + tl.cdiv(count - 1 + RIGHT, BLOCK_N)
    skip = tl.minimum(tl.maximum(near, whole), whole_end)
    skip_end = tl.minimum(tl.maximum(near_end, skip), whole_end)

    acc, mass, top = absorb_whole_tiles(
        q,
        k_ptr,
        v_ptr,
        k_row,
        v_row,
        begin + whole * BLOCK_N,
        skip - whole,
        skip_end - skip,
        whole_end - skip_end,
        leftmost,
        rightmost,
        scale,
        acc,
        mass,
        top,
        DIM,
        BLOCK_N,
    )
    for i in range(0, tiles - (skip - whole) - (whole_end - skip_end)):
        t = i + tl.where(i < whole, 0, skip - whole)
        t += tl.where(t < skip_end, 0, whole_end - skip_end)
        ahead = (t - to_first) * BLOCK_N  # of the first query
        key = first + ahead + columns
        seen = (key >= low) & (key < high)  # of V too: 0 · NaN is NaN
        k = tl.load(k_ptr + key.to(tl.int64)[:, None] * k_row + dims[None, :], mask=seen[:, None], other=0.0)
        v = tl.load(v_ptr + key.to(tl.int64)[:, None] * v_row + dims[None, :], mask=seen[:, None], other=0.0)
        raw = tl.dot(q, tl.trans(k), input_precision="ieee")
        # Beyond the diagonal nothing is used of what is read, which is then any place of the program's own.
        shift = tl.where((t >= near) & (t < near_end), ahead + LEFT, 0)
        bias = tl.load(by_key + shift, mask=inside, other=0.0, cache_modifier=".ca").to(tl.float32)
        bias = tl.where(columns[None, :] <= (rows - LEFT - ahead)[:, None], leftmost[:, None], bias)
        bias = tl.where(columns[None, :] >= (rows + RIGHT - ahead)[:, None], rightmost[:, None], bias)
        raw = raw * scale + bias
        raw += tl.where(seen, 0.0, float("-inf"))[None, :]
        acc, mass, top = absorb(raw, 1.0, none, v, acc, mass, top)
    if low >= high:  # a half-real row alone in its chunk: the mean of all values, as the reference has it
        total = tl.zeros([DIM], tl.float32)
        for key in range(0, length, BLOCK_N):
            there = (key + columns < length)[:, None]
            v_rows = v_ptr + (key + columns).to(tl.int64)[:, None] * v_row + dims[None, :]
            total += tl.sum(tl.load(v_rows, mask=there, other=0.0).to(tl.float32), 0)
        acc = tl.zeros([BLOCK_M, DIM], tl.float32) + total[None, :]
        mass = tl.zeros([BLOCK_M], tl.float32) + length
    out_rows = out_ptr + head * DIM + (start + first + rows)[:, None] * (HEADS * DIM) + dims[None, :]
    tl.store(out_rows, (acc / mass[:, None]).to(out_ptr.dtype.element_ty), mask=inside)


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
    q, k, v = rows_of_heads(q), rows_of_heads(k), rows_of_heads(v)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    config = config_for("rel_attention", (dim,), q.dtype, q.device)
    segments, chunk_size = len(cu_seqlens) - 1, min(chunk_size, ONE_CHUNK)
    tiles = tiles_at_most(total, segments, config["BLOCK_M"], chunk_size)
    # 146 bytes a row and head in 16 bit: as much again as q, and read while it is in the cache.
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
            DIM=dim,
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

    q, k, v may be views: of their strides only the last must be 1, or they are copied. chunk_size is in rows.
    """
    name = backend_for(q.device, IMPLS)
    implementation = reference if name == "triton" and q.shape[-1] not in HEAD_DIMS else IMPLS[name]
    return implementation(
        q, k, v, distance_embedding, cu_seqlens, valid, left=left, chunk_size=chunk_size, left_chunks=left_chunks
    )


IMPLS = {"torch": reference, "triton": _triton}
