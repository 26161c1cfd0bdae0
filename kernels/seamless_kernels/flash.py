"""What the packed attentions share: which rows a program has, and the softmax that goes over tiles of keys once.

    top' = max(top, max_j s_j);   p_j = 2^(s_j − top');   mass' = mass · 2^(top − top') + Σ p_j
    acc' = acc · 2^(top − top') + Σ p_j · v_j;            out = acc / mass   (arXiv 2307.08691)

Scores s are in base 2: the scale that multiplies them holds log2(e). A tile is BLOCK_M rows of queries or BLOCK_N of
keys, counted from the start of its segment, so that a segment's bits do not depend on where it lies.
"""

from __future__ import annotations

import torch

from seamless_kernels.jit import jit, tl

HEAD_DIMS = (16, 32, 64, 128)  # a matrix instruction needs 16, registers end beyond 128
ONE_CHUNK = 1 << 30  # rows: longer than any segment


def rows_of_heads(x: torch.Tensor) -> torch.Tensor:
    """x [total, heads, d] with a stride of 1 along d; rows and heads may be any distance apart."""
    return x if x.stride(2) == 1 else x.contiguous()


def tiles_at_most(total: int, segments: int, block: int, chunk: int) -> int:
    """Tiles of `block` queries that cut segments at every `chunk` rows, whatever the segments' lengths."""
    return total // block + total // chunk + segments


@jit
def locate(cu_seqlens, segments, tile, chunk, BLOCK_M: tl.constexpr):
    """(segment of a tile, number of the tile in it), without a list of tiles.

    The first tile of segment s is cu[s] // BLOCK_M + cu[s] // chunk + s. That leaves each segment room for its tiles,
    as ⌊a/b⌋ − ⌊c/b⌋ ≥ ⌊(a − c)/b⌋, and a tile or two that have no rows.
    """
    segment = 0
    for at in range(0, segments, 256):
        s = at + tl.arange(0, 256)
        start = tl.load(cu_seqlens + s, mask=s < segments, other=0)
        before = (s < segments) & (start // BLOCK_M + start // chunk + s <= tile)
        segment += tl.sum(before.to(tl.int32))
    segment -= 1
    start = tl.load(cu_seqlens + segment)
    return segment, tile - (start // BLOCK_M + start // chunk + segment)


@jit
def absorb(raw, scale, bias, v, acc, mass, top):
    """(acc, mass, top) after keys of values v [BLOCK_N, d] and scores raw [BLOCK_M, BLOCK_N] · scale + bias [BLOCK_M].

    The bias goes into the maximum, which leaves one multiply-add an element.
    """
    new = tl.maximum(top, tl.max(raw, 1) * scale + bias)
    p = tl.exp2(raw * scale - (new - bias)[:, None])
    fade = tl.exp2(top - new)
    acc = tl.dot(p.to(v.dtype), v, acc * fade[:, None], input_precision="ieee")
    return acc, mass * fade + tl.sum(p, 1), new


@jit
def absorb_whole_tiles(
    q,
    k_ptr,
    v_ptr,
    k_stride,
    v_stride,
    begin,
    before,
    skipped,
    after,
    bias_before,
    bias_after,
    scale,
    acc,
    mass,
    top,
    DIM: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Tiles of keys that every query sees whole: `before` of them from key `begin` on, and `after` beyond `skipped`.

    The bias is one number a row: bias_before and bias_after [BLOCK_M].
    """
    columns = tl.arange(0, BLOCK_N)[:, None]
    k_tile = k_ptr + columns * k_stride + tl.arange(0, DIM)[None, :]
    v_tile = v_ptr + columns * v_stride + tl.arange(0, DIM)[None, :]
    for i in range(0, before + after):
        key = begin + (i + tl.where(i < before, 0, skipped)) * BLOCK_N
        k = tl.load(k_tile + key.to(tl.int64) * k_stride)
        v = tl.load(v_tile + key.to(tl.int64) * v_stride)
        raw = tl.dot(q, tl.trans(k), input_precision="ieee")
        bias = tl.where(i < before, bias_before, bias_after)
        acc, mass, top = absorb(raw, scale, bias, v, acc, mass, top)
    return acc, mass, top
