"""The best next tokens from the decoder's states: `top_candidates` of the LM head's product, without storing the
logits.

    hidden [queries, dim], W [vocab, dim]  →  top_candidates(hidden · Wᵀ in float32) → log p, token [queries, count]

The kernel reads W in blocks of BLOCK words, those of `top_candidates`. Of each tile of logits it stores the maximum and
the sum of every query, and keeps the best `count` entries of the query so far. Once this list is full, a tile is
searched only while some query has an entry that is better than the worst of its list. The logits are those of `linear`,
sums are exact and the rest is comparison, so the result has the bits of the two operations one by one.
"""

from __future__ import annotations

from typing import Any

import torch

from seamless_kernels.config import config_for
from seamless_kernels.dispatch import backend_for
from seamless_kernels.jit import jit, tl, triton
from seamless_kernels.layout import unit_stride
from seamless_kernels.linear import LinearWeight, k_loop, logits
from seamless_kernels.top_candidates import (
    BLOCK,
    block_max_and_sum,
    entry_of,
    key_of,
    normalize,
    sort_banned,
    top_candidates,
    write_best,
)

_TILE = ("BLOCK_M", "BLOCK_K", "num_warps", "num_stages")  # the numbers of a tile in the table
_MAX_COUNT = 16  # candidates of a list that fits in registers
LOGITS_BYTES = 2**28  # of logits, at a time


def reference(
    hidden: torch.Tensor, weight: LinearWeight, count: int, banned: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two operations one by one, each by its own implementation, for a bounded number of queries at a time."""
    size = max(1, LOGITS_BYTES // (4 * len(weight)))
    parts = [
        top_candidates(
            logits(hidden[first : first + size], weight),
            count,
            None if banned is None else banned[first : first + size],
        )
        for first in range(0, max(len(hidden), 1), size)
    ]
    return torch.cat([log_probs for log_probs, _ in parts]), torch.cat([tokens for _, tokens in parts])


@jit
def _insert(entries, key, column, m_mask):
    """entries [BLOCK_M, COUNT] with the better ones of a tile inserted; key -0x80000000 is not an entry."""
    inserting = 1
    while inserting > 0:
        best = tl.max(key, 1)
        place = tl.min(tl.where(key == best[:, None], column[None, :], 0x7FFFFFFF), 1)
        entry, worst = entry_of(best, place), tl.min(entries, 1)
        better = m_mask & (best > -0x80000000) & (entry > worst)
        entries = tl.where((entries == worst[:, None]) & better[:, None], entry[:, None], entries)
        key = tl.where(column[None, :] == place[:, None], -0x80000000, key)
        inserting = tl.max(better.to(tl.int32), 0)
    return entries


@jit(do_not_specialize=["M", "num_banned", "span"])
def _product_kernel(
    x_ptr,
    w_ptr,
    banned_ptr,  # [M, num_banned] ascending
    max_ptr,  # [M, blocks]
    sum_ptr,
    entry_ptr,  # [M, spans, COUNT]
    M,
    vocab,
    K,
    blocks,
    num_banned,
    span,  # blocks of a program
    stride_xm,
    COUNT: tl.constexpr,
    CHUNK: tl.constexpr,
    HAS_BANNED: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    tiles_m = tl.cdiv(M, BLOCK_M)  # programs that read the same weights have adjacent numbers
    pid_n = tl.program_id(0) // tiles_m
    start_m = (tl.program_id(0) % tiles_m * BLOCK_M).to(tl.int64)
    offs_m = tl.arange(0, BLOCK_M)
    m_mask = offs_m < M - start_m
    offs_k = tl.arange(0, BLOCK_K)
    x_ptrs = x_ptr + start_m * stride_xm + offs_m[:, None] * stride_xm + offs_k[None, :]
    # smaller than every entry, and all different
    entries = -0x8000000000000000 + tl.arange(0, COUNT)[None, :].to(tl.int64) + tl.zeros([BLOCK_M, COUNT], tl.int64)
    if HAS_BANNED:
        banned_ptr += (start_m + offs_m) * num_banned
        cursor = tl.zeros([BLOCK_M], tl.int32)
        for at in range(0, num_banned, 16):
            i = at + tl.arange(0, 16)
            token = tl.load(banned_ptr[:, None] + i[None, :], mask=m_mask[:, None] & (i < num_banned), other=0x7FFFFFFF)
            cursor += tl.sum((token < pid_n * span * BLOCK).to(tl.int32), 1)
    for block in range(pid_n * span, tl.minimum(pid_n * span + span, blocks)):
        offs_n = block * BLOCK + tl.arange(0, BLOCK)
        w_ptrs = w_ptr + tl.minimum(offs_n, vocab - 1).to(tl.int64)[:, None] * K + offs_k[None, :]
        if CHUNK:
            acc = tl.zeros([BLOCK_M, BLOCK], tl.float32)
            for start_k in range(0, K, CHUNK):
                end_k = tl.minimum(start_k + CHUNK, K)
                acc += k_loop(x_ptrs, w_ptrs, m_mask, offs_k, start_k, end_k, BLOCK_M, BLOCK, BLOCK_K)
        else:
            acc = k_loop(x_ptrs, w_ptrs, m_mask, offs_k, 0, K, BLOCK_M, BLOCK, BLOCK_K)
        key = key_of(tl.where((offs_n < vocab)[None, :], acc, float("-inf")))
        m, total = block_max_and_sum(key)
        place = (start_m + offs_m) * blocks + block
        tl.store(max_ptr + place, m, mask=m_mask)
        tl.store(sum_ptr + place, total, mask=m_mask)
        if HAS_BANNED:
            end = block * BLOCK + BLOCK
            token = tl.load(banned_ptr + cursor, mask=m_mask & (cursor < num_banned), other=0x7FFFFFFF)
            while tl.min(token, 0) < end:
                key = tl.where(offs_n[None, :] == token[:, None], -0x7F800001, key)  # the key of −inf
                cursor += (token < end).to(tl.int32)
                token = tl.load(banned_ptr + cursor, mask=m_mask & (cursor < num_banned), other=0x7FFFFFFF)
        key = tl.where((offs_n < vocab)[None, :], key, -0x80000000)
        entries = _insert(entries, key, offs_n, m_mask)
    spans = tl.cdiv(blocks, span)
    place = ((start_m + offs_m) * spans + pid_n)[:, None] * COUNT + tl.arange(0, COUNT)[None, :]
    tl.store(entry_ptr + place, entries, mask=m_mask[:, None])


@jit(do_not_specialize=["size", "count"])
def _merge_kernel(entry_ptr, norm_ptr, log_prob_ptr, token_ptr, size, count, SIZE: tl.constexpr):
    query = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, SIZE)
    entries = tl.load(entry_ptr + query * size + i, mask=i < size, other=-0x8000000000000000)
    write_best(entries, count, norm_ptr + query * 2, log_prob_ptr + query * count, token_ptr + query * count)


def _triton(
    hidden: torch.Tensor, weight: torch.Tensor, count: int, banned: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    (M, K), vocab, device = hidden.shape, weight.shape[0], hidden.device
    log_probs = torch.empty(M, count, dtype=torch.float32, device=device)
    tokens = torch.empty(M, count, dtype=torch.int64, device=device)
    if not M:
        return log_probs, tokens
    hidden = unit_stride(hidden)
    config = config_for("linear_top_candidates", (vocab, K), hidden.dtype, device)
    chunk = config_for("linear", (vocab, K), hidden.dtype, device)["CHUNK"]
    tile, span = _schedule(M, vocab, config)
    blocks = triton.cdiv(vocab, BLOCK)
    spans, size = triton.cdiv(blocks, span), triton.next_power_of_2(count)
    maxima = torch.empty(M, blocks, dtype=torch.int32, device=device)
    sums = torch.empty(M, blocks, dtype=torch.float32, device=device)
    entries = torch.empty(M, spans * size, dtype=torch.int64, device=device)
    sorted_banned, num_banned = sort_banned(banned)
    fusion = config["enable_fp_fusion"]
    _product_kernel[(triton.cdiv(M, tile["BLOCK_M"]) * spans,)](
        hidden,
        weight,
        sorted_banned,
        maxima,
        sums,
        entries,
        M,
        vocab,
        K,
        blocks,
        num_banned,
        span,
        hidden.stride(0),
        COUNT=size,
        CHUNK=chunk if K > chunk else 0,
        HAS_BANNED=banned is not None,
        BLOCK=BLOCK,
        enable_fp_fusion=fusion,
        **tile,
    )
    norm, width = normalize(maxima, sums), triton.next_power_of_2(spans * size)
    _merge_kernel[(M,)](
        entries, norm, log_probs, tokens, spans * size, count, SIZE=width, num_warps=8, enable_fp_fusion=fusion
    )
    return log_probs, tokens


def _schedule(M: int, vocab: int, config: dict[str, Any]) -> tuple[dict[str, int], int]:
    """The tile, and the blocks of a program, chosen to give about PROGRAMS programs."""
    tiles: list[dict[str, int]] = [dict(zip(_TILE, sizes, strict=True)) for sizes in config["TILES"]]
    tile = next((tile for tile in tiles if tile["BLOCK_M"] <= M), tiles[-1])
    spans = max(1, config["PROGRAMS"] // triton.cdiv(M, tile["BLOCK_M"]))
    return tile, max(1, triton.cdiv(triton.cdiv(vocab, BLOCK), spans))


def linear_top_candidates(
    hidden: torch.Tensor, weight: LinearWeight, count: int, banned: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """log p float32 and token int64 [queries, count]. `weight` is as `pack_weight` or `pack_weight_int8` left it,
    `banned` as in `top_candidates`; `count` may not exceed the vocabulary."""
    fused = isinstance(weight, torch.Tensor) and hidden.dtype == weight.dtype and count <= _MAX_COUNT
    return IMPLS[backend_for(hidden.device, IMPLS) if fused else "torch"](hidden, weight, count, banned)


IMPLS = {"torch": reference, "triton": _triton}
