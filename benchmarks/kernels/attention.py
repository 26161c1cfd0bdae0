"""attention and rel_attention over packed segments, paged_attention over the slots of decode steps."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.kernels.case import DIM, HEAD_DIM, HEADS, MODEL, Case, Setup
from seamless_kernels.attention import attention
from seamless_kernels.paged_attention import cross_attention, self_attention
from seamless_kernels.rel_attention import rel_attention

_LEFT, _RIGHT = MODEL.left_max_position_embeddings, MODEL.right_max_position_embeddings
_SCALE = HEAD_DIM**-0.5


def _ragged(count: int, mean: int) -> list[int]:
    """`count` lengths between half of `mean` and one and a half of it, always the same."""
    rng = random.Random(count)
    return [rng.randint(mean // 2, mean * 3 // 2) for _ in range(count)]


_TEXTS = {"256 texts of about 36": _ragged(256, 36), "256 adapted of about 63": _ragged(256, 63)}
_SPEECH = {
    "one of 500": [500],  # 10 s
    "32 of 512": [512] * 32,
    "32 of about 500": _ragged(32, 500),
    "128 of about 125": _ragged(128, 125),
    "8 of about 2000": _ragged(8, 2000),
}
_QUICK = {"2 of about 100": _ragged(2, 100)}


def attention_cases(setup: Setup) -> Iterator[Case]:
    """Texts, the speech adapter's output for 10 seconds, units of speech. 4 · heads · d · Σ length² operations."""
    for name, lengths in setup.pick(_QUICK, _TEXTS | _SPEECH).items():
        yield _segments(setup, name, lengths, lambda qkv, cu_seqlens, _: attention(qkv[0], qkv[1], qkv[2], cu_seqlens))


def rel_attention_cases(setup: Setup) -> Iterator[Case]:
    """The speech encoder's: 2 · 73 · heads · d operations a token more, for q · Eᵀ, made by the others themselves."""
    e = setup.randn(MODEL.num_relative_positions, HEAD_DIM)
    chunks = {"chunk_size": MODEL.speech_encoder_chunk_size, "left_chunks": MODEL.speech_encoder_left_chunk_num}

    def ours(qkv: Any, cu_seqlens: Tensor, lengths: Tensor) -> Tensor:
        q, k, v = qkv
        return rel_attention(q, k, v, e, cu_seqlens, lengths, left=_LEFT, **chunks)

    for name, lengths in setup.pick(_QUICK, _SPEECH).items():
        yield _segments(setup, name, lengths, ours, e)


def _segments(
    setup: Setup, name: str, segments: list[int], ours: Callable[..., Tensor], e: Tensor | None = None
) -> Case:
    """SDPA has its inputs padded beforehand. e: of the relative positions, from which SDPA makes a bias by key."""
    lengths, longest, total = torch.tensor(segments, device=setup.device), max(segments), sum(segments)
    cu_seqlens = F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    at = torch.arange(longest, device=setup.device)
    inside = at < lengths[:, None]  # [segments, longest]
    column = (at - at[:, None]).clamp(-_LEFT, _RIGHT) + _LEFT  # [longest, longest]

    def inputs() -> tuple[Any, ...]:
        qkv = setup.randn(total, 3, HEADS, HEAD_DIM).unbind(1)
        padded = [part.new_zeros(*inside.shape, HEADS, HEAD_DIM) for part in qkv]
        for target, part in zip(padded, qkv, strict=True):
            target[inside] = part
        return qkv, [part.transpose(1, 2).contiguous() for part in padded]  # [segments, heads, longest, d]

    def sdpa(_: Any, padded: list[Tensor]) -> Tensor:
        mask = None if min(segments) == longest else inside[:, None, None]
        if e is not None:
            relative = padded[0] @ e.T * _SCALE  # [segments, heads, longest, 73]
            bias = relative.gather(-1, column.expand(*relative.shape[:2], -1, -1))
            mask = bias.masked_fill(~inside[:, None, None], float("-inf"))
        return F.scaled_dot_product_attention(*padded, attn_mask=mask).transpose(1, 2)[inside]

    found = {"ours": lambda qkv, _: ours(qkv, cu_seqlens, lengths.to(torch.int32)), "SDPA": sdpa}
    if setup.compiled and setup.device.type == "cuda" and e is not None:
        found["FlexAttention"] = _flex_attention(lengths, total, e)
    flops = DIM * (4.0 * sum(n * n for n in segments) + (0.0 if e is None else 2.0 * len(e) * total))
    least_bytes = 4.0 * DIM * total * setup.dtype.itemsize  # q, k, v read, the result written
    return Case(f"{name}, {HEADS} × {HEAD_DIM}", inputs, found, flops, least_bytes)


def _flex_attention(lengths: Tensor, total: int, e: Tensor) -> Callable[..., Tensor]:
    """FlexAttention of the packed tokens as one sequence, with a block mask that is made beforehand."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    segment = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    mask = create_block_mask(lambda _b, _h, q, k: segment[q] == segment[k], None, None, total, total, lengths.device)

    def run(qkv: list[Tensor], _: Any) -> Tensor:
        q, k, v = (part.transpose(0, 1)[None] for part in qkv)
        relative = q[0] @ e.T * _SCALE  # [heads, total, 73]

        def add(score: Any, _batch: Any, head: Any, query: Any, key: Any) -> Any:
            return score + relative[head, query, (key - query).clamp(-_LEFT, _RIGHT) + _LEFT]

        return flex_attention(q, k, v, score_mod=add, block_mask=mask)[0].transpose(0, 1)  # type: ignore[index]

    return torch.compile(run, dynamic=False)


# Slot tables of equal length, each read by some beams: count, beams, length. A table for each beam is self-attention.
_SELF = ((5, 1, 36), (1280, 1, 36), (320, 1, 256), (5, 1, 1024))
_CROSS = ((1, 5, 63), (256, 5, 63), (64, 5, 1024), (1, 5, 1024))


def paged_attention_cases(setup: Setup) -> Iterator[Case]:
    """Self- and cross-attention of decode steps. SDPA gathers the slots first.

    Least bytes: keys and values once for each table, q read, the result written.
    """
    for tables in setup.pick((_SELF[0], (2, 5, 63)), _SELF + _CROSS):
        yield _paged_attention(setup, *tables)


def _paged_attention(setup: Setup, count: int, beams: int, length: int) -> Case:
    queries, slots = count * beams, count * length
    table = torch.randperm(slots, device=setup.device).to(torch.int32).view(count, length)
    lengths = torch.full((count,), length, dtype=torch.int32, device=setup.device)
    cu_queries = setup.cu_seqlens(count, beams)

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if beams == 1:
            return self_attention(q, k, v, table, lengths)
        return cross_attention(q, k, v, table, lengths, cu_queries)

    def gathered(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = (pool[table.long()].transpose(1, 2) for pool in (k, v))  # [tables, heads, length, d]
        split = q.view(count, beams, HEADS, HEAD_DIM).transpose(1, 2)
        return F.scaled_dot_product_attention(split, keys, values).transpose(1, 2).reshape(q.shape)

    return Case(
        f"{'self' if beams == 1 else 'cross'}, {count} × {beams} beams of {length}",
        lambda: tuple(setup.randn(n, HEADS, HEAD_DIM) for n in (queries, slots, slots)),
        {"ours": ours, "SDPA": gathered},
        flops=4.0 * DIM * queries * length,
        least_bytes=2.0 * (slots + queries) * DIM * setup.dtype.itemsize,
    )
