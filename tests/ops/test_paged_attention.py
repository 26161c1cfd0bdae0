"""paged_attention: batch-invariant, invariant to the placement of slots, and unused slots are never read."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from seamless_kernels import jit, paged_attention
from seamless_kernels.config import config_for
from seamless_kernels.kv_cache import store_kv
from seamless_kernels.native import csrc
from seamless_kernels.paged_attention import cross_attention, self_attention
from support.packed import BACKENDS, DEVICE, DTYPES, bounds, normal
from tolerance import assert_close_to_fp64

NATIVE = ("native",) if csrc and DEVICE.type == "cpu" else ()
pytestmark = [
    pytest.mark.usefixtures("backend"),
    pytest.mark.parametrize("backend", (*BACKENDS, *NATIVE), indirect=True),
]
SLOTS = 1500
NOWHERE = 2**30  # entries of a table past a length
Pools = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def place(lengths: Sequence[int], dtype: torch.dtype, heads: int, dim: int, seed: int, slack: int = 3) -> Pools:
    """Keys and values of every table at random slots of pools that are NaN elsewhere; the slot table."""
    rng = random.Random(seed)
    # A layer of many: the slots of a pool lie inside a larger tensor.
    pools = torch.full((2, 2, SLOTS, heads, dim), torch.nan, dtype=dtype, device=DEVICE)
    k_pool, v_pool = pools[0, 1], pools[1, 1]
    table = torch.full((len(lengths), max(lengths) + slack), NOWHERE, dtype=torch.int32, device=DEVICE)
    free = rng.sample(range(SLOTS), SLOTS)
    for i, length in enumerate(lengths):
        slots = torch.tensor([free.pop() for _ in range(length)], device=DEVICE)
        k, v = (normal(length, heads, dim, dtype=dtype, seed=100 * i + part) for part in (1, 2))
        store_kv(k, v, k_pool, v_pool, slots)
        table[i, :length] = slots
    return k_pool, v_pool, table


def kernels_launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of Triton's kernels that are launched from now on."""
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    launched: list[str] = []
    kernels: Any = InterpretedFunction if jit.interpreted() else JITFunction
    run = kernels.run

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        launched.append(self.fn.__name__)
        return run(self, *args, **kwargs)

    monkeypatch.setattr(kernels, "run", counted)
    return launched


def int32(values: Sequence[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


def exact(q: torch.Tensor, tables: Sequence[int], lengths: Sequence[int], pools: Pools, dtype: torch.dtype):
    """By einsum in `dtype`; row r reads row tables[r] of the slot table."""
    k_pool, v_pool, table = pools
    out = []
    for row, t in enumerate(tables):
        slots = table[t, : lengths[t]].long()
        k, v = k_pool[slots].to(dtype), v_pool[slots].to(dtype)
        score = torch.einsum("hd,lhd->hl", q[row].to(dtype), k) / math.sqrt(q.shape[-1])
        out.append(torch.einsum("hl,lhd->hd", score.softmax(-1), v))
    return torch.stack(out)


def assert_close(out: torch.Tensor, q: torch.Tensor, tables: Sequence[int], lengths: Sequence[int], pools: Pools):
    truth = exact(q, tables, lengths, pools, torch.float64)
    # 1: a weight, for the matrix units
    assert_close_to_fp64(out, truth, terms=q.shape[-1] + max(lengths), dtype=q.dtype, narrow=1)


def queries(rows: int, heads: int, dim: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """As a fused projection leaves them: a third of a wider tensor."""
    return normal(rows, 3, heads, dim, dtype=dtype)[:, 0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("heads,dim", [(2, 64), (3, 16), (4, 20)])
def test_self_attention_is_close_to_float64(heads: int, dim: int, dtype: torch.dtype) -> None:
    lengths = [1, 2, 15, 16, 17, 100, 7]
    pools = place(lengths, dtype, heads, dim, seed=1)
    q = queries(len(lengths), heads, dim, dtype)
    assert_close(self_attention(q, *pools, int32(lengths)), q, range(len(lengths)), lengths, pools)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cross_attention_is_close_to_float64(dtype: torch.dtype) -> None:
    lengths, rows = [1, 63, 7, 188], [5, 1, 2, 3]
    pools = place(lengths, dtype, 2, 64, seed=2)
    q = queries(sum(rows), 2, 64, dtype)
    out = cross_attention(q, *pools, int32(lengths), bounds(rows))
    assert_close(out, q, [t for t, count in enumerate(rows) for _ in range(count)], lengths, pools)


@pytest.mark.parametrize("length", [255, 256, 257, 600])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_paged_attention_takes_long_contexts(length: int, dtype: torch.dtype) -> None:
    lengths = [length, 3]
    pools = place(lengths, dtype, 2, 64, seed=3)
    q = queries(2, 2, 64, dtype)
    assert_close(self_attention(q, *pools, int32(lengths)), q, range(2), lengths, pools)
    assert_close(cross_attention(q, *pools, int32(lengths), bounds([1, 1])), q, range(2), lengths, pools)


def test_cross_attention_is_invariant_to_the_beams_of_a_request(backend: str) -> None:
    lengths = [40, 21, 33]
    pools = place(lengths, torch.float32, 2, 64, seed=4)
    q = queries(64, 2, 64)

    def alone(row: int, table: int) -> torch.Tensor:
        rows = [0, 0, 0]
        rows[table] = 1
        return cross_attention(q[row : row + 1], *pools, int32(lengths), bounds(rows))[0]

    for beams in (1, 2, 5, 8):
        out = cross_attention(q[:beams].repeat(3, 1, 1), *pools, int32(lengths), bounds([beams] * 3))
        for table, row in itertools.product(range(3), {0, beams // 2, beams - 1}):
            assert torch.equal(out[table * beams + row], alone(row, table))
    out = cross_attention(q, *pools, int32(lengths), bounds([0, 64, 0]))
    assert all(torch.equal(out[row], alone(row, 1)) for row in (0, 15, 16, 40, 63))
    assert_close(out, q, [1] * 64, lengths, pools)


def test_cross_attention_does_not_read_requests_without_queries() -> None:
    lengths = [9, 20, 5]
    k_pool, v_pool, table = place(lengths, torch.float32, 2, 16, seed=5)
    q = queries(5, 2, 16)
    plain = cross_attention(q, k_pool, v_pool, table, int32(lengths), bounds([2, 1, 2]))
    dummy = torch.full_like(table[:1], NOWHERE)
    padded = torch.cat([dummy, table[:2], dummy, table[2:], dummy, dummy])
    poisoned = int32([NOWHERE, 9, 20, 0, 5, NOWHERE, -1])
    assert torch.equal(cross_attention(q, k_pool, v_pool, padded, poisoned, bounds([0, 2, 1, 0, 2, 0, 0])), plain)


def test_cross_attention_reads_any_rows_of_a_larger_table() -> None:
    lengths = [9, 20, 5, 31]
    k_pool, v_pool, table = place(lengths, torch.float32, 2, 64, seed=6)
    q, table_ids = queries(6, 2, 64), [3, 0, 2, 0]
    sizes, rows = int32([lengths[i] for i in table_ids]), bounds([2, 1, 0, 3])
    found = cross_attention(q, k_pool, v_pool, table, sizes, rows, int32(table_ids))
    assert torch.equal(found, cross_attention(q, k_pool, v_pool, table[table_ids], sizes, rows))


def test_self_attention_reads_any_rows_of_a_larger_table() -> None:
    lengths = [9, 20, 5, 31]
    k_pool, v_pool, table = place(lengths, torch.float32, 2, 64, seed=6)
    q, table_ids = queries(6, 2, 64), [3, 0, 0, 2, 1, 3]
    chosen = int32([lengths[i] for i in table_ids])
    gathered = self_attention(q, k_pool, v_pool, table[table_ids].contiguous(), chosen)
    assert torch.equal(self_attention(q, k_pool, v_pool, table, chosen, int32(table_ids)), gathered)


def test_paged_attention_of_no_queries_is_empty() -> None:
    k_pool, v_pool, table = place([3], torch.float32, 2, 16, seed=7)
    none = normal(0, 2, 16)
    assert self_attention(none, k_pool, v_pool, table[:0], int32([])).shape == none.shape
    assert cross_attention(none, k_pool, v_pool, table, int32([3]), bounds([0])).shape == none.shape


def test_paged_attention_confines_nan_to_its_query() -> None:
    lengths = [30, 30]
    pools = place(lengths, torch.float32, 2, 64, seed=8)
    q = queries(4, 2, 64).clone()
    clean = cross_attention(q, *pools, int32(lengths), bounds([3, 1]))
    q[1] = torch.nan
    out = cross_attention(q, *pools, int32(lengths), bounds([3, 1]))
    assert out[1].isnan().all() and torch.equal(out[[0, 2, 3]], clean[[0, 2, 3]])
    assert self_attention(q[:2], *pools, int32(lengths)).isnan().all(-1).all(-1).tolist() == [False, True]


@pytest.mark.parametrize(
    "heads,dim,dtype", [(2, 16, torch.float16), (2, 64, torch.float32), (2, 64, torch.bfloat16), (4, 20, torch.float32)]
)
def test_paged_attention_is_invariant_to_batch_order_and_slots(heads: int, dim: int, dtype: torch.dtype) -> None:
    lengths = [5, 40, 5, 64, 65, 1, 5, 64]
    q = queries(len(lengths), heads, dim, dtype)
    full = int32(lengths)
    k_pool, v_pool, table = place(lengths, dtype, heads, dim, seed=3)
    alone = [self_attention(q[i : i + 1], k_pool, v_pool, table[i : i + 1], full[i : i + 1])[0] for i in range(8)]
    crossed = [
        cross_attention(q[i : i + 1], k_pool, v_pool, table[i : i + 1], full[i : i + 1], bounds([1]))[0]
        for i in range(8)
    ]
    for seed in range(2):
        order = random.Random(seed).sample(range(8), 8 - seed)
        k_pool, v_pool, table = place(lengths, dtype, heads, dim, seed=10 + seed)
        together = self_attention(q[order], k_pool, v_pool, table[order], full[order])
        assert all(torch.equal(out, alone[i]) for i, out in zip(order, together, strict=True))
        together = cross_attention(q[order], k_pool, v_pool, table[order], full[order], bounds([1] * len(order)))
        assert all(torch.equal(out, crossed[i]) for i, out in zip(order, together, strict=True))


@pytest.mark.parametrize("lengths", [[1, 511, 512], [513, 512, 1]], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_paged_attention_of_one_chunk_has_the_bits_of_wide_tables_and_no_second_kernel(
    backend: str, dtype: torch.dtype, lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the chunks of a GPU, of 512 keys, and few programs, so that wide tables are split."""

    def chunks_of_512(*which: Any) -> dict[str, Any]:
        return config_for(*which) | {"CHUNK": 512}

    launched = kernels_launched(monkeypatch) if backend == "triton" else []
    monkeypatch.setattr(paged_attention, "config_for", chunks_of_512)
    monkeypatch.setattr(paged_attention, "num_sms", lambda *_: 8)
    rows = [2, 0, 3]
    q, full = queries(5, 2, 64, dtype), int32(lengths)
    k_pool, v_pool, table = place(lengths, dtype, 2, 64, seed=11, slack=0)
    results = []
    for width in (table.shape[1], 1026):
        wide = torch.full((3, width), NOWHERE, dtype=torch.int32, device=DEVICE)
        wide[:, : table.shape[1]] = table
        launched.clear()
        pools = k_pool, v_pool, wide
        results.append((self_attention(q[:3], *pools, full), cross_attention(q, *pools, full, bounds(rows))))
        if backend == "triton":
            assert launched == (["_kernel"] if width <= 512 else ["_kernel", "_combine_kernel"]) * 2
    assert all(torch.equal(narrow, wide) for narrow, wide in zip(*results, strict=True))


def test_paged_attention_is_invariant_to_table_width_and_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [257, 70, 520, 256]
    q, full, rows = queries(4, 2, 64), int32(lengths), bounds([2, 0, 1, 1])
    results = []
    for processors, slack in ((8, 3), (1, 3), (1, 1000), (2, 1000), (100, 3), (100, 1000)):
        monkeypatch.setattr(paged_attention, "num_sms", lambda *_, count=processors: count)
        pools = place(lengths, torch.float32, 2, 64, seed=9, slack=slack)
        results.append((self_attention(q, *pools, full), cross_attention(q, *pools, full, rows)))
    for selves, crossed in results[1:]:
        assert torch.equal(selves, results[0][0]) and torch.equal(crossed, results[0][1])
