"""The best next tokens from the decoder's states: the output product and `top_candidates` of it, without the logits.

    hidden [rows, dim], W [vocab, dim]  →  top_candidates(hidden · Wᵀ in float32) → log p, token [rows, count]

The kernel takes W in blocks of as many columns as those of which `top_candidates` keeps a maximum and a sum. Of each
tile of logits it writes these two, and carries the best `count` entries of each row along: once the list is full, a
tile is only searched as long as a row has an entry that is better than the worst of its list. Logits are `linear`'s,
sums are exact and the rest is comparison, so the result is bit for bit that of the two operations one by one.
"""

from __future__ import annotations

from typing import Any

import torch

from seamless_kernels.config import config_for
from seamless_kernels.dispatch import backend_for
from seamless_kernels.jit import jit, tl, triton
from seamless_kernels.linear import LinearWeight, _chain, logits
from seamless_kernels.top_candidates import (
    BLOCK,
    add_up,
    ban_table,
    entry_of,
    key_of,
    normalise,
    top_candidates,
    write_best,
)

_TILE = ("BLOCK_M", "BLOCK_K", "num_warps", "num_stages")  # a tile of the table
_LARGEST = 16  # candidates of a list that is carried along
_LOGITS = 2**28  # bytes of logits that may exist at a time


def reference(
    hidden: torch.Tensor, weight: LinearWeight, count: int, banned: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two operations one by one, each by its own implementation, for as many rows at a time as memory allows."""
    size = max(1, _LOGITS // (4 * len(weight)))
    parts = [
        top_candidates(
            logits(hidden[rows : rows + size], weight),
            count,
            None if banned is None else banned[rows : rows + size],
        )
        for rows in range(0, max(len(hidden), 1), size)
    ]
    return torch.cat([log_probs for log_probs, _ in parts]), torch.cat([tokens for _, tokens in parts])


@jit
def _insert(entries, key, column, real):
    """entries [rows, count] with those of a tile that are better; -0x80000000 is the key of what is not there."""
    going = 1
    while going > 0:
        best = tl.max(key, 1)
        place = tl.min(tl.where(key == best[:, None], column[None, :], 0x7FFFFFFF), 1)
        entry, worst = entry_of(best, place), tl.min(entries, 1)
        enters = real & (best > -0x80000000) & (entry > worst)
        entries = tl.where((entries == worst[:, None]) & enters[:, None], entry[:, None], entries)
        key = tl.where(column[None, :] == place[:, None], -0x80000000, key)
        going = tl.max(enters.to(tl.int32), 0)
    return entries


@jit(do_not_specialize=["rows", "bans", "span"])
def _product_kernel(
    x_ptr,
    weight_ptr,
    banned_ptr,  # [rows, bans] ascending
    top_ptr,  # [rows, blocks]
    total_ptr,
    entry_ptr,  # [rows, spans, COUNT]
    rows,
    vocab,
    inner,
    blocks,
    bans,
    span,  # blocks of a program
    x_stride,
    COUNT: tl.constexpr,
    CHUNK: tl.constexpr,
    BANNED: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    tiles = tl.cdiv(rows, BLOCK_M)  # those that read the same weights run side by side
    part = tl.program_id(0) // tiles
    above = (tl.program_id(0) % tiles * BLOCK_M).to(tl.int64)
    row = tl.arange(0, BLOCK_M)
    real = row < rows - above
    k = tl.arange(0, BLOCK_K)
    x_ptrs = x_ptr + above * x_stride + row[:, None] * x_stride + k[None, :]
    # below every entry, and all different
    entries = -0x8000000000000000 + tl.arange(0, COUNT)[None, :].to(tl.int64) + tl.zeros([BLOCK_M, COUNT], tl.int64)
    if BANNED:
        banned_ptr += (above + row) * bans
        cursor = tl.zeros([BLOCK_M], tl.int32)
        for at in range(0, bans, 16):
            i = at + tl.arange(0, 16)
            token = tl.load(banned_ptr[:, None] + i[None, :], mask=real[:, None] & (i < bans), other=0x7FFFFFFF)
            cursor += tl.sum((token < part * span * BLOCK).to(tl.int32), 1)
    for block in range(part * span, tl.minimum(part * span + span, blocks)):
        column = block * BLOCK + tl.arange(0, BLOCK)
        weight_ptrs = weight_ptr + tl.minimum(column, vocab - 1).to(tl.int64)[:, None] * inner + k[None, :]
        if CHUNK:
            x = tl.zeros([BLOCK_M, BLOCK], tl.float32)
            for first in range(0, inner, CHUNK):
                last = tl.minimum(first + CHUNK, inner)
                x += _chain(x_ptrs, weight_ptrs, real, k, first, last, BLOCK_M, BLOCK, BLOCK_K)
        else:
            x = _chain(x_ptrs, weight_ptrs, real, k, 0, inner, BLOCK_M, BLOCK, BLOCK_K)
        key = key_of(tl.where((column < vocab)[None, :], x, float("-inf")))
        top, total = add_up(key)
        place = (above + row) * blocks + block
        tl.store(top_ptr + place, top, mask=real)
        tl.store(total_ptr + place, total, mask=real)
        if BANNED:
            end = block * BLOCK + BLOCK
            token = tl.load(banned_ptr + cursor, mask=real & (cursor < bans), other=0x7FFFFFFF)
            while tl.min(token, 0) < end:
                key = tl.where(column[None, :] == token[:, None], -0x7F800001, key)  # the key of −inf
                cursor += (token < end).to(tl.int32)
                token = tl.load(banned_ptr + cursor, mask=real & (cursor < bans), other=0x7FFFFFFF)
        key = tl.where((column < vocab)[None, :], key, -0x80000000)
        entries = _insert(entries, key, column, real)
    spans = tl.cdiv(blocks, span)
    place = ((above + row) * spans + part)[:, None] * COUNT + tl.arange(0, COUNT)[None, :]
    tl.store(entry_ptr + place, entries, mask=real[:, None])


@jit(do_not_specialize=["size", "count"])
def _merge_kernel(entry_ptr, norm_ptr, log_prob_ptr, token_ptr, size, count, SIZE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, SIZE)
    entries = tl.load(entry_ptr + row * size + i, mask=i < size, other=-0x8000000000000000)
    write_best(entries, count, norm_ptr + row * 2, log_prob_ptr + row * count, token_ptr + row * count)


def _triton(
    hidden: torch.Tensor, weight: torch.Tensor, count: int, banned: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    (rows, inner), vocab, device = hidden.shape, weight.shape[0], hidden.device
    log_probs = torch.empty(rows, count, dtype=torch.float32, device=device)
    tokens = torch.empty(rows, count, dtype=torch.int64, device=device)
    if not rows:
        return log_probs, tokens
    hidden = hidden if hidden.stride(1) == 1 else hidden.contiguous()
    config = config_for("linear_top_candidates", (vocab, inner), hidden.dtype, device)
    chunk = config_for("linear", (vocab, inner), hidden.dtype, device)["CHUNK"]
    tile, span = _schedule(rows, vocab, config)
    blocks = triton.cdiv(vocab, BLOCK)
    spans, size = triton.cdiv(blocks, span), triton.next_power_of_2(count)
    top = torch.empty(rows, blocks, dtype=torch.int32, device=device)
    total = torch.empty(rows, blocks, dtype=torch.float32, device=device)
    entries = torch.empty(rows, spans * size, dtype=torch.int64, device=device)
    listed, bans = ban_table(banned)
    fusion = config["enable_fp_fusion"]
    _product_kernel[(triton.cdiv(rows, tile["BLOCK_M"]) * spans,)](
        hidden,
        weight,
        listed,
        top,
        total,
        entries,
        rows,
        vocab,
        inner,
        blocks,
        bans,
        span,
        hidden.stride(0),
        COUNT=size,
        CHUNK=chunk if inner > chunk else 0,
        BANNED=banned is not None,
        BLOCK=BLOCK,
        enable_fp_fusion=fusion,
        **tile,
    )
    norm, width = normalise(top, total), triton.next_power_of_2(spans * size)
    _merge_kernel[(rows,)](
        entries, norm, log_probs, tokens, spans * size, count, SIZE=width, num_warps=8, enable_fp_fusion=fusion
    )
    return log_probs, tokens


def _schedule(rows: int, vocab: int, config: dict[str, Any]) -> tuple[dict[str, int], int]:
    """The tile, and the blocks of a program, so that there are about PROGRAMS of them."""
    tiles: list[dict[str, int]] = [dict(zip(_TILE, sizes, strict=True)) for sizes in config["TILES"]]
    tile = next((tile for tile in tiles if tile["BLOCK_M"] <= rows), tiles[-1])
    spans = max(1, config["PROGRAMS"] // triton.cdiv(rows, tile["BLOCK_M"]))
    return tile, max(1, triton.cdiv(triton.cdiv(vocab, BLOCK), spans))


def linear_top_candidates(
    hidden: torch.Tensor, weight: LinearWeight, count: int, banned: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """log p float32 and token int64 [rows, count]; `weight` as `pack_weight` or `pack_weight_int8` left it, `banned` as
    `top_candidates` has it. `count` may not exceed the vocabulary."""
    fused = isinstance(weight, torch.Tensor) and hidden.dtype == weight.dtype and count <= _LARGEST
    return IMPLS[backend_for(hidden.device, IMPLS) if fused else "torch"](hidden, weight, count, banned)


IMPLS = {"torch": reference, "triton": _triton}
