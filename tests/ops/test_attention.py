"""attention: softmax within each segment, keys bounded by `valid`, segments independent to the bit."""

from __future__ import annotations

import math

import pytest
import torch

from seamless_kernels.attention import attention
from support.packed import DTYPES, LENGTHS, assert_segments_independent, bounds, normal
from tolerance import assert_close_to_fp64


def exact(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: list[int], valid: list[int], dtype: torch.dtype
) -> torch.Tensor:  # noqa: E501
    out, start = [], 0
    for length, keys in zip(lengths, valid, strict=True):
        mine = [t[start : start + length].to(dtype).transpose(0, 1) for t in (q, k, v)]
        score = mine[0] @ mine[1][:, :keys].transpose(1, 2) / math.sqrt(q.shape[-1])
        out.append((score.softmax(-1) @ mine[2][:, :keys]).transpose(0, 1))
        start += length
    return torch.cat(out)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("heads,dim", [(2, 64), (3, 16)])
def test_error_is_at_most_twice_torch(lengths: list[int], heads: int, dim: int, dtype: torch.dtype) -> None:
    q, k, v = (normal(sum(lengths), heads, dim, dtype=dtype, seed=i) for i in range(3))
    for valid in (lengths, [max(n - 1, 1) for n in lengths]):
        out = attention(q, k, v, bounds(lengths), torch.tensor(valid, dtype=torch.int32))
        truth = exact(q, k, v, lengths, valid, torch.float64)
        assert_close_to_fp64(out, exact(q, k, v, lengths, valid, dtype), truth)


def test_segments_are_independent() -> None:
    def run(segments: list[torch.Tensor], _: list[int]) -> list[torch.Tensor]:
        q, k, v = torch.cat(segments).unbind(1)
        lengths = [len(s) for s in segments]
        return list(attention(q, k, v, bounds(lengths)).split(lengths))

    assert_segments_independent(run, [normal(n, 3, 4, 64, seed=n) for n in (1, 2, 17, 33, 64, 100, 7)])
