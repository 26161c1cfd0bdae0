"""rel_attention: the clipped relative term, the chunk rule and the half-real key, against a direct sum in float64."""

from __future__ import annotations

import math

import pytest
import torch

from seamless_kernels.rel_attention import rel_attention
from support.packed import DTYPES, LENGTHS, assert_segments_independent, bounds, normal
from tolerance import assert_close_to_fp64

LEFT, RIGHT = 64, 8


def exact(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    e: torch.Tensor,
    lengths: list[int],
    valid: list[int],
    chunk: int,
    left_chunks: int,
    dtype: torch.dtype,
) -> torch.Tensor:  # noqa: E501
    """Row by row from the definition: the embedding is gathered to [T, T, d] here, as nobody should."""
    out, start = [], 0
    for length, keys in zip(lengths, valid, strict=True):
        mine = [t[start : start + length].to(dtype).transpose(0, 1) for t in (q, k, v)]
        at = torch.arange(length)
        relative = e.to(dtype)[(at[None] - at[:, None]).clamp(-LEFT, RIGHT) + LEFT]  # [T, T, d]
        score = mine[0] @ mine[1].transpose(1, 2) + torch.einsum("hid,ijd->hij", mine[0], relative)
        first = (at // chunk - left_chunks).clamp(min=0) * chunk if left_chunks >= 0 else torch.zeros_like(at)
        seen = (at[None] >= first[:, None]) & (at[None] < (at[:, None] // chunk + 1) * chunk) & (at[None] < keys)
        score = (score / math.sqrt(q.shape[-1])).masked_fill(~seen, torch.finfo(dtype).min)
        out.append((score.softmax(-1) @ mine[2]).transpose(0, 1))
        start += length
    return torch.cat(out)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lengths", [*LENGTHS, [700, 513, 1]], ids=str)
@pytest.mark.parametrize("chunk,left_chunks", [(20000, 128), (16, 2), (50, 0), (33, -1)])
def test_error_is_at_most_twice_torch(lengths: list[int], chunk: int, left_chunks: int, dtype: torch.dtype) -> None:
    q, k, v = (normal(sum(lengths), 2, 16, dtype=dtype, seed=i) for i in range(3))
    e = normal(LEFT + RIGHT + 1, 16, dtype=dtype, seed=3)
    for valid in (lengths, [max(n - 1, 1) for n in lengths]):
        out = rel_attention(
            q, k, v, e, bounds(lengths), torch.tensor(valid), left=LEFT, chunk_size=chunk, left_chunks=left_chunks
        )
        truth = exact(q, k, v, e, lengths, valid, chunk, left_chunks, torch.float64)
        assert_close_to_fp64(out, exact(q, k, v, e, lengths, valid, chunk, left_chunks, dtype), truth)


def test_segments_are_independent() -> None:
    e = normal(LEFT + RIGHT + 1, 64)

    def run(segments: list[torch.Tensor], _: list[int]) -> list[torch.Tensor]:
        q, k, v = torch.cat(segments).unbind(1)
        lengths = [len(s) for s in segments]
        valid = torch.tensor(lengths)
        out = rel_attention(q, k, v, e, bounds(lengths), valid, left=LEFT, chunk_size=20000, left_chunks=128)
        return list(out.split(lengths))

    assert_segments_independent(run, [normal(n, 3, 4, 64, seed=n) for n in (1, 2, 17, 33, 64, 600, 7)])
