"""What the packed attention kernels share: the tile of a program, and the online softmax (arXiv 2307.08691).

    m_i' = max(m_i, max_j s_ij);   alpha = 2^(m_i − m_i');   p_ij = 2^(s_ij − m_i')
    l_i' = alpha · l_i + Σ_j p_ij;   acc_i' = alpha · acc_i + Σ_j p_ij · v_j;   out_i = acc_i / l_i

Scores s are in base 2: the scale that multiplies them includes log2(e). A tile is BLOCK_M queries or BLOCK_N keys,
counted from the start of its segment, so that the bits of a segment do not depend on where it lies in the batch.
"""

from __future__ import annotations

from seamless_kernels.jit import jit, tl

HEAD_DIMS = (16, 32, 64, 128)  # a matrix instruction needs at least 16; beyond 128 registers spill
ONE_CHUNK = 1 << 30  # tokens: longer than any segment


def max_tiles(total: int, segments: int, block: int, chunk: int) -> int:
    """Upper bound of the tiles of `block` tokens, cut at every `chunk` tokens, for any lengths of the segments."""
    return total // block + total // chunk + segments


@jit
def locate_tile(cu_seqlens_ptr, segments, tile, chunk, BLOCK_M: tl.constexpr):
    """(segment of a tile, index of the tile in it), without a list of tiles.

    The first tile of segment s is cu[s] // BLOCK_M + cu[s] // chunk + s. Since ⌊a/b⌋ − ⌊c/b⌋ ≥ ⌊(a − c)/b⌋, each
    segment has at least as many tiles as it needs, and one or two that are empty.
    """
    segment = 0
    for first in range(0, segments, 256):
        offs_s = first + tl.arange(0, 256)
        start = tl.load(cu_seqlens_ptr + offs_s, mask=offs_s < segments, other=0)
        before = (offs_s < segments) & (start // BLOCK_M + start // chunk + offs_s <= tile)
        segment += tl.sum(before.to(tl.int32))
    segment -= 1
    start = tl.load(cu_seqlens_ptr + segment)
    return segment, tile - (start // BLOCK_M + start // chunk + segment)


@jit
def online_softmax_update(acc, l_i, m_i, qk, scale, bias, v):
    """(acc, l_i, m_i) after keys with scores qk [BLOCK_M, BLOCK_N] · scale + bias [BLOCK_M] and values v [BLOCK_N, d].

    The bias is part of the maximum, which leaves one multiply-add for each score.
    """
    m_new = tl.maximum(m_i, tl.max(qk, 1) * scale + bias)
    p = tl.exp2(qk * scale - (m_new - bias)[:, None])
    alpha = tl.exp2(m_i - m_new)
    acc = tl.dot(p.to(v.dtype), v, acc * alpha[:, None], input_precision="ieee")
    return acc, l_i * alpha + tl.sum(p, 1), m_new


@jit
def attend_unmasked_tiles(
    acc,
    l_i,
    m_i,
    q,
    k_ptr,
    v_ptr,
    stride_kn,
    stride_vn,
    begin,
    tiles_before,
    tiles_skipped,
    tiles_after,
    bias_before,
    bias_after,
    scale,
    HEAD_DIM: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Tiles of keys that no query masks: `tiles_before` from key `begin` on, and `tiles_after` behind `tiles_skipped`.

    The bias depends on the query alone: bias_before and bias_after [BLOCK_M].
    """
    offs_n = tl.arange(0, BLOCK_N)[:, None]
    k_ptrs = k_ptr + offs_n * stride_kn + tl.arange(0, HEAD_DIM)[None, :]
    v_ptrs = v_ptr + offs_n * stride_vn + tl.arange(0, HEAD_DIM)[None, :]
    for i in range(0, tiles_before + tiles_after):
        start_n = begin + (i + tl.where(i < tiles_before, 0, tiles_skipped)) * BLOCK_N
        k = tl.load(k_ptrs + start_n.to(tl.int64) * stride_kn)
        v = tl.load(v_ptrs + start_n.to(tl.int64) * stride_vn)
        qk = tl.dot(q, tl.trans(k), input_precision="ieee")
        bias = tl.where(i < tiles_before, bias_before, bias_after)
        acc, l_i, m_i = online_softmax_update(acc, l_i, m_i, qk, scale, bias, v)
    return acc, l_i, m_i
