"""paged_attention: any placement of slots gives the same bits, rows are independent, unused slots are never read."""

from __future__ import annotations

import math
import random

import pytest
import torch

from seamless_kernels.kv_cache import store_kv
from seamless_kernels.paged_attention import cross_attention, self_attention
from support.packed import DTYPES, bounds, normal
from tolerance import assert_close_to_fp64

SLOTS = 600


def place(
    lengths: list[int], dtype: torch.dtype, heads: int, dim: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keys and values of every table at random slots of a pool that is NaN elsewhere; the padded slot table."""
    rng = random.Random(seed)
    k_pool = torch.full((SLOTS, heads, dim), torch.nan, dtype=dtype)
    v_pool = k_pool.clone()
    table = torch.full((len(lengths), max(lengths) + 3), 2**30, dtype=torch.int32)
    free = rng.sample(range(SLOTS), SLOTS)
    for i, length in enumerate(lengths):
        slots = torch.tensor([free.pop() for _ in range(length)])
        k, v = (normal(length, heads, dim, dtype=dtype, seed=100 * i + part) for part in (1, 2))
        store_kv(k, v, k_pool, v_pool, slots)
        table[i, :length] = slots
    return k_pool, v_pool, table


def exact(
    q: torch.Tensor,
    table_of: list[int],
    lengths: list[int],
    pools: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    dtype: torch.dtype,
) -> torch.Tensor:  # noqa: E501
    k_pool, v_pool, table = pools
    out = []
    for row, t in enumerate(table_of):
        slots = table[t, : lengths[t]].long()
        k, v = k_pool[slots].to(dtype), v_pool[slots].to(dtype)
        score = torch.einsum("hd,lhd->hl", q[row].to(dtype), k) / math.sqrt(q.shape[-1])
        out.append(torch.einsum("hl,lhd->hd", score.softmax(-1), v))
    return torch.stack(out)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("heads,dim", [(2, 64), (3, 16)])
def test_self_attention_error_is_at_most_twice_torch(heads: int, dim: int, dtype: torch.dtype) -> None:
    lengths = [1, 2, 7, 7, 16, 33, 100, 7]
    pools = place(lengths, dtype, heads, dim, seed=1)
    q = normal(len(lengths), heads, dim, dtype=dtype)
    out = self_attention(q, *pools, torch.tensor(lengths, dtype=torch.int32))
    rows = list(range(len(lengths)))
    truth = exact(q, rows, lengths, pools, torch.float64)
    assert_close_to_fp64(out, exact(q, rows, lengths, pools, dtype), truth)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cross_attention_error_is_at_most_twice_torch(dtype: torch.dtype) -> None:
    lengths, rows = [1, 63, 7, 188], [5, 1, 2, 3]
    pools = place(lengths, dtype, 2, 64, seed=2)
    q = normal(sum(rows), 2, 64, dtype=dtype)
    out = cross_attention(q, *pools, torch.tensor(lengths, dtype=torch.int32), bounds(rows))
    table_of = [t for t, count in enumerate(rows) for _ in range(count)]
    truth = exact(q, table_of, lengths, pools, torch.float64)
    assert_close_to_fp64(out, exact(q, table_of, lengths, pools, dtype), truth)


@pytest.mark.parametrize("heads,dim", [(2, 16), (8, 64), (4, 20)])
def test_company_order_and_placement_change_no_bit(heads: int, dim: int) -> None:
    lengths = [5, 40, 5, 64, 65, 1, 5, 64]
    q = normal(len(lengths), heads, dim)
    full = torch.tensor(lengths, dtype=torch.int32)
    k_pool, v_pool, table = place(lengths, torch.float32, heads, dim, seed=3)
    alone = [self_attention(q[i : i + 1], k_pool, v_pool, table[i : i + 1], full[i : i + 1])[0] for i in range(8)]
    crossed = [
        cross_attention(q[i : i + 1], k_pool, v_pool, table[i : i + 1], full[i : i + 1], bounds([1]))[0]
        for i in range(8)
    ]
    for seed in range(4):
        order = random.Random(seed).sample(range(8), 8 - seed)
        k_pool, v_pool, table = place(lengths, torch.float32, heads, dim, seed=10 + seed)
        together = self_attention(q[order], k_pool, v_pool, table[order], full[order])
        assert all(torch.equal(out, alone[i]) for i, out in zip(order, together, strict=True))
        together = cross_attention(q[order], k_pool, v_pool, table[order], full[order], bounds([1] * len(order)))
        assert all(torch.equal(out, crossed[i]) for i, out in zip(order, together, strict=True))
