"""csrc/: the same bits on any threads, every instruction set right, bad arguments refused."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seamless_kernels import conv1d as conv1d_module
from seamless_kernels import native
from seamless_kernels.conv1d import PackedFilter, conv1d, pack_conv_weight
from seamless_kernels.int8 import IMPLS, quantize_rows
from seamless_kernels.paged_attention import cross_attention, self_attention
from seamless_kernels.top_candidates import top_candidates
from support.on_cpu import bounds, normal
from tolerance import assert_close_to_fp64

assert native.csrc is not None, "csrc/ is not built: it needs g++ and `pip install -e .`"
csrc = native.csrc
pytestmark = pytest.mark.usefixtures("backend_is_native")


@pytest.fixture
def backend_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAMLESS_BACKEND", "native")


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def scene(lengths: list[int], heads: int, dim: int, slots: int = 2000) -> tuple[torch.Tensor, ...]:
    """Pools, a table of random slots, wider than needed, and lengths."""
    pools = normal(slots, heads, dim, seed=1), normal(slots, heads, dim, seed=2)
    order = torch.randperm(slots, generator=torch.Generator().manual_seed(3)).int()
    table = torch.full((len(lengths), max(lengths) + 2), -1, dtype=torch.int32)
    for i, (length, own) in enumerate(zip(lengths, order[: sum(lengths)].split(lengths), strict=True)):
        table[i, :length] = own
    return *pools, table, torch.tensor(lengths, dtype=torch.int32)


@pytest.mark.parametrize("dim", [1, 7, 16, 20, 64, 100])
def test_every_instruction_set_attends_right(dim: int, instruction_set: str) -> None:
    lengths = [1, 3, 4, 5, 17, 64, 300]
    k, v, table, sizes = scene(lengths, 3, dim)
    q = normal(len(lengths), 3, dim)

    out = []
    for row, length in enumerate(lengths):
        slots = table[row, :length].long()
        score = torch.einsum("hd,lhd->hl", q[row].double(), k[slots].double()) / math.sqrt(dim)
        out.append(torch.einsum("hl,lhd->hd", score.softmax(-1), v[slots].double()))
    assert_close_to_fp64(self_attention(q, k, v, table, sizes), torch.stack(out), terms=dim + max(lengths))


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("vocab", [1, 3, 4095, 4096, 4097, 20000])
def test_every_instruction_set_ranks_right(vocab: int, scale: float, instruction_set: str) -> None:
    logits = normal(3, vocab) * scale
    count = min(vocab, 128)
    log_probs, tokens = top_candidates(logits, count)
    assert torch.equal(tokens, logits.sort(dim=-1, descending=True, stable=True).indices[:, :count])
    exact = logits.double().log_softmax(-1).gather(1, tokens)
    assert_close_to_fp64(log_probs, exact, terms=logits.shape[1])


@pytest.mark.parametrize("channels,out", [(1, 1), (16, 16), (17, 33), (40, 15), (64, 64), (512, 48)])
@pytest.mark.parametrize("taps,dilation", [(1, 1), (3, 1), (5, 2), (7, 3), (9, 1), (11, 5)])
def test_every_instruction_set_convolves_right(
    channels: int, out: int, taps: int, dilation: int, instruction_set: str
) -> None:
    lengths = [1, 30, 5, 11, 97]
    x, weight, bias = normal(144, channels), normal(out, channels, taps, seed=1), normal(out, seed=2)
    residual, options = normal(144, out, seed=3), {"dilation": dilation, "leaky_slope": 0.1, "scale": 0.5}

    parts = x.double(), weight[:, :, None].double(), bias.double(), bounds(lengths)
    exact = conv1d_module.reference(*parts, residual=residual.double(), **options)
    packed = pack_conv_weight(weight)
    assert isinstance(packed, PackedFilter)
    y = conv1d(x, packed, bias, bounds(lengths), residual=residual, **options)
    assert_close_to_fp64(y, exact, terms=4 * channels * taps)  # 4: rows are made two by two


@pytest.mark.parametrize("columns", [1, 15, 16, 40, 1027])
def test_every_instruction_set_quantises_as_torch(columns: int, instruction_set: str) -> None:
    x = normal(41, columns) * torch.logspace(-6, 4, 41)[:, None]
    x[3], x[7, -1], x[8, 0], x[9, columns // 2] = 0.0, float("nan"), float("nan"), float("inf")
    halves = torch.arange(-10, 11).float() + 0.5  # of a scale of 1
    x[10] = torch.cat([torch.tensor([127.0]), halves.repeat(columns // 21 + 1)])[:columns]
    values, scale = quantize_rows(x)
    whole, steps = IMPLS["torch"](x)
    assert torch.equal(scale.isnan(), steps.isnan()) and torch.equal(scale.nan_to_num(), steps.nan_to_num())
    finite = steps.isfinite()
    assert torch.equal(values[finite], whole[finite])
    apart = torch.empty(41, columns + 3)
    apart[:, :columns] = x
    assert torch.equal(quantize_rows(apart[:, :columns])[0][finite], values[finite])


def test_a_convolution_has_the_same_bits_on_any_threads_and_of_any_whole_pairs_of_its_rows(
    threads: Callable[[int], None], instruction_set: str
) -> None:
    x, weight, bias = normal(3001, 48), pack_conv_weight(normal(48, 48, 7, seed=1)), normal(48, seed=2)
    threads(1)
    whole = conv1d(x, weight, bias, bounds([3001]), dilation=3)
    for count in (2, 3, 7):
        threads(count)
        assert torch.equal(conv1d(x, weight, bias, bounds([3001]), dilation=3), whole)
    for first, last in ((0, 19), (1002, 1100), (2502, 3001)):
        part = conv1d(x[first:last], weight, bias, bounds([last - first]), dilation=3)
        inner = slice(9 if first else 0, last - first - (9 if last < 3001 else 0))
        assert torch.equal(part[inner], whole[first:last][inner])


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_order_is_total_whatever_is_banned(data: st.DataObject) -> None:
    values = st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 1.0, 2.0])
    row = data.draw(st.lists(values, min_size=1, max_size=90))
    banned = data.draw(st.lists(st.integers(-1, len(row) - 1), max_size=8))
    count = data.draw(st.integers(1, len(row)))
    _, tokens = top_candidates(torch.tensor([row]), count, torch.tensor([banned], dtype=torch.int64).view(1, -1))
    kept = [-math.inf if token in banned else value for token, value in enumerate(row)]
    assert tokens[0].tolist() == sorted(range(len(row)), key=lambda token: (-kept[token], token))[:count]


def test_attention_has_the_same_bits_on_any_number_of_threads(threads: Callable[[int], None]) -> None:
    k, v, table, sizes = scene([188, 40, 301], 16, 64)
    q = normal(11, 16, 64)
    rows = torch.tensor([0, 1, 2, 1, 0, 2, 2, 1, 0, 0, 2], dtype=torch.int32)
    threads(1)
    own, crossed = (
        self_attention(q, k, v, table, sizes[rows], rows),
        cross_attention(q, k, v, table, sizes, bounds([5, 1, 5])),
    )
    for count in (2, 3, 7):
        threads(count)
        assert torch.equal(self_attention(q, k, v, table, sizes[rows], rows), own)
        assert torch.equal(cross_attention(q, k, v, table, sizes, bounds([5, 1, 5])), crossed)


@pytest.mark.parametrize("rows", [1, 5, 40])
def test_candidates_have_the_same_bits_on_any_number_of_threads(rows: int, threads: Callable[[int], None]) -> None:
    logits = (normal(rows, 150_001) * 100).round() / 25  # many ties, in all parts of a row
    banned = logits.argmax(-1, keepdim=True)
    threads(1)
    expected = top_candidates(logits, 20, banned)
    for count in (2, 3, 7):
        threads(count)
        for one, other in zip(top_candidates(logits, 20, banned), expected, strict=True):
            assert torch.equal(one, other)


def test_a_row_has_the_same_bits_however_many_beams_share_its_keys(instruction_set: str) -> None:
    k, v, table, sizes = scene([60, 7], 4, 64)
    q = normal(9, 4, 64)
    shared = cross_attention(q, k, v, table, sizes, bounds([6, 3]))
    owner = torch.tensor([0] * 6 + [1] * 3, dtype=torch.int32)
    assert torch.equal(shared, self_attention(q, k, v, table, sizes[owner], owner))
    assert torch.equal(shared, self_attention(q, k, v, table[owner], sizes[owner]))


def test_views_are_read_in_place() -> None:
    k, v, table, sizes = scene([60, 7], 4, 64)
    qkv, wide = normal(2, 3, 4, 64), torch.zeros(2, 300, dtype=torch.int32)
    wide[:, : table.shape[1]] = table
    out = self_attention(qkv[:, 1], k, v, wide[:, :60], sizes)
    assert torch.equal(out, self_attention(qkv[:, 1].contiguous(), k, v, table, sizes))
    logits = normal(3, 2, 500)
    for one, other in zip(top_candidates(logits[:, 1], 4), top_candidates(logits[:, 1].contiguous(), 4), strict=True):
        assert torch.equal(one, other)


def test_attention_shows_a_nan_and_an_infinity_in_their_rows_alone() -> None:
    k, v, table, sizes = scene([9, 9, 9], 2, 16)
    q = normal(3, 2, 16)
    clean = self_attention(q, k, v, table, sizes)
    k[table[0, 8], 1, 3] = math.nan
    v[table[1, 4], 0, 5] = math.inf
    out = self_attention(q, k, v, table, sizes)
    assert out[0, 1].isnan().all() and torch.equal(out[0, 0], clean[0, 0])
    assert out[1, 0, 5] == math.inf and torch.equal(out[1, 1], clean[1, 1])
    assert torch.equal(out[2], clean[2])


@pytest.mark.parametrize("vocab", [70, 9000])
def test_rows_without_a_distribution_are_nan_and_name_real_tokens(vocab: int) -> None:
    logits = normal(4, vocab)
    logits[0] = -math.inf
    logits[1] = math.nan
    logits[2, vocab - 1] = math.inf
    logits[3, 7] = math.nan
    log_probs, tokens = top_candidates(logits, 40)
    assert log_probs.isnan().any(-1).all()
    assert all(len(set(row)) == 40 and set(row) <= set(range(vocab)) for row in tokens.tolist())


def attend(kind: str, **changed: Any) -> None:
    """With arguments that are right but for the changed ones."""
    k, v, table, sizes = (x.numpy() for x in scene([5, 2], 2, 16, slots=50))
    given = {"q": normal(2, 2, 16).numpy(), "k": k, "v": v, "table": table, "lengths": sizes, "table_ids": None}
    given |= {"cu_queries": bounds([1, 1]).numpy()} if kind == "cross_attention" else {}
    given |= {"out": np.empty((2, 2, 16), dtype=np.float32), "threads": 1}
    getattr(csrc, kind)(*(given | changed).values())


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("kind", ["self_attention", "cross_attention"])
@pytest.mark.parametrize(
    "changed,message",
    [
        ({"q": np.zeros((2, 2, 16))}, "q has dtype float64, expected float32"),
        ({"q": np.zeros((2, 32), dtype=np.float32)}, r"q has shape \(2, 32\), expected \(any, any, any\)"),
        ({"q": np.zeros((2, 2, 32), dtype=np.float32)[:, :, ::2]}, "q is not contiguous in a row"),
        ({"q": np.zeros((2, 2, 0), dtype=np.float32)}, "heads of size 0"),
        ({"k": np.zeros((50, 1, 16), dtype=np.float32)}, "k_pool has shape"),
        ({"k": np.zeros((50, 2, 32), dtype=np.float32)[:, :, ::2]}, "k_pool is not contiguous"),
        ({"v": np.zeros((49, 2, 16), dtype=np.float32)}, "v_pool has shape"),
        ({"v": np.zeros((50, 2, 16), dtype=np.float16)}, "v_pool has dtype float16"),
        ({"table": np.zeros((2, 7), dtype=np.int64)}, "slot_table has dtype int64"),
        ({"table": np.full((2, 7), 50, dtype=np.int32)}, "slot that the pool does not have"),
        ({"table": np.full((2, 7), -1, dtype=np.int32)}, "slot that the pool does not have"),
        ({"lengths": np.array([5, 2, 1], dtype=np.int32)}, "lengths has shape|a row for each of lengths"),
        ({"table": np.zeros((3, 7), dtype=np.int32)}, "a row for each of lengths"),
        ({"table_ids": np.array([0, 2], dtype=np.int32)}, "table_ids names a row"),
        ({"table_ids": np.array([-1, 0], dtype=np.int32)}, "table_ids names a row"),
        ({"table_ids": np.array([0], dtype=np.int32)}, "table_ids has shape"),
        ({"lengths": np.array([0, 2], dtype=np.int32)}, "lengths must be 1"),
        ({"lengths": np.array([5, 8], dtype=np.int32)}, "lengths must be 1"),
        ({"out": np.empty((1, 2, 16), dtype=np.float32)}, "out has shape"),
        ({"out": read_only(np.empty((2, 2, 16), dtype=np.float32))}, "out is read-only"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_attention_refuses_bad_arguments(kind: str, changed: dict[str, Any], message: str) -> None:
    attend(kind)
    with pytest.raises(ValueError, match=message):
        attend(kind, **changed)


@pytest.mark.parametrize(
    "cu_queries,message",
    [
        ([0, 2], "cu_queries has shape"),
        ([1, 1, 2], "cu_queries must go from 0"),
        ([0, 1, 3], "cu_queries must go from 0"),
        ([0, 2, 1], "cu_queries must not decrease"),
    ],
)
def test_attention_refuses_bad_rows(cu_queries: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attend("cross_attention", cu_queries=np.array(cu_queries, dtype=np.int32))


@pytest.mark.parametrize(
    "changed,message",
    [
        ({"logits": np.zeros((2, 9))}, "logits has dtype float64"),
        ({"logits": np.zeros((2, 18), dtype=np.float32)[:, ::2]}, "logits is not contiguous in a row"),
        ({"count": 0}, "count must be 1"),
        ({"count": 10}, "count must be 1"),
        ({"banned": np.zeros((2, 1), dtype=np.int32)}, "banned has dtype int32"),
        ({"banned": np.zeros((1, 1), dtype=np.int64)}, "banned has shape"),
        ({"banned": np.full((2, 1), 9)}, "banned names a token"),
        ({"banned": np.full((2, 1), -2)}, "banned names a token"),
        ({"log_probs": np.zeros((2, 4), dtype=np.float32)}, "log_probs has shape"),
        ({"tokens": np.zeros((2, 3), dtype=np.int32)}, "tokens has dtype int32"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_candidates_refuse_bad_arguments(changed: dict[str, Any], message: str) -> None:
    good = {"logits": np.zeros((2, 9), dtype=np.float32), "count": 3, "banned": np.full((2, 1), -1)} | {
        "log_probs": np.empty((2, 3), dtype=np.float32),
        "tokens": np.empty((2, 3), dtype=np.int64),
        "threads": 1,
    }
    csrc.top_candidates(*good.values())
    with pytest.raises(ValueError, match=message):
        csrc.top_candidates(*(good | changed).values())


@pytest.mark.parametrize(
    "changed,message",
    [
        ({"x": np.zeros((5, 4))}, "x has dtype float64"),
        ({"x": np.zeros((5, 8), dtype=np.float32)[:, ::2]}, "x is not contiguous in a row"),
        ({"values": np.empty((5, 3), dtype=np.int8)}, "values has shape"),
        ({"values": np.empty((5, 4), dtype=np.uint8)}, "values has dtype"),
        ({"scale": np.empty(4, dtype=np.float32)}, "scale has shape"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_quantising_refuses_bad_arguments(changed: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "x": np.zeros((5, 4), dtype=np.float32),
        "values": np.empty((5, 4), dtype=np.int8),
        "scale": np.empty(5, dtype=np.float32),
        "threads": 1,
    }
    csrc.quantize_rows(*good.values())
    with pytest.raises(ValueError, match=message):
        csrc.quantize_rows(*(good | changed).values())


@pytest.mark.parametrize(
    "changed,message",
    [
        ({"x": np.zeros((5, 4))}, "x has dtype float64"),
        ({"x": np.zeros((5, 0), dtype=np.float32)}, "must have columns"),
        ({"weight": np.zeros((1, 16, 16), dtype=np.float32)}, "weight has shape"),
        ({"weight": np.zeros((2, 0, 16), dtype=np.float32)}, "odd number of taps"),
        ({"weight": np.zeros((2, 12, 16), dtype=np.float32)}, "odd number of taps"),
        ({"weight": np.zeros((2, 17, 16), dtype=np.float32)}, "odd number of taps"),
        ({"weight": np.zeros((2, 20, 16), dtype=np.float32)}, "odd number of taps"),
        ({"bias": np.zeros((20, 1), dtype=np.float32)}, "bias has shape"),
        ({"bounds": np.array([0, 4], dtype=np.int32)}, "cu_seqlens must go from 0"),
        ({"bounds": np.array([1, 5], dtype=np.int32)}, "cu_seqlens must go from 0"),
        ({"bounds": np.array([0, 7, 5], dtype=np.int32)}, "cu_seqlens must not decrease"),
        ({"bounds": np.array([], dtype=np.int32)}, "cu_seqlens must go from 0"),
        ({"residual": np.zeros((5, 19), dtype=np.float32)}, "residual has shape"),
        ({"out": np.zeros((4, 20), dtype=np.float32)}, "out has shape"),
        ({"dilation": 0}, "dilation must be at least 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_convolution_refuses_bad_arguments(changed: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "x": np.zeros((5, 4), dtype=np.float32),
        "weight": np.zeros((2, 16, 16), dtype=np.float32),
        "bias": np.zeros(20, dtype=np.float32),
        "bounds": np.array([0, 2, 5], dtype=np.int32),
        "residual": None,
        "out": np.empty((5, 20), dtype=np.float32),
        "dilation": 1,
        "slope": 1.0,
        "scale": 1.0,
        "threads": 1,
    }
    csrc.conv1d(*good.values())
    with pytest.raises(ValueError, match=message):
        csrc.conv1d(*(good | changed).values())


@pytest.mark.parametrize(
    "changed,message",
    [
        ({"x": np.zeros((5, 8), dtype=np.float32)[:, ::2]}, "x is not contiguous"),
        ({"x": np.zeros((5, 8), dtype=np.float32)[:, :4]}, "x is not contiguous"),
        ({"weights": np.zeros((1, 1, 16, 16), dtype=np.float32)}, "weights has shape"),
        ({"weights": np.zeros((2, 1, 12, 16), dtype=np.float32)}, "odd number of taps"),
        ({"biases": np.zeros((2, 3), dtype=np.float32)}, "biases has shape"),
        ({"bounds": np.array([0, 4], dtype=np.int32)}, "cu_seqlens must go from 0"),
        ({"total": np.zeros((4, 4), dtype=np.float32)}, "total has shape"),
        ({"out": np.zeros((5, 5), dtype=np.float32)}, "out has shape"),
        ({"dilation": 0}, "dilation must be at least 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_pair_of_convolutions_refuses_bad_arguments(changed: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "x": np.zeros((5, 4), dtype=np.float32),
        "weights": np.zeros((2, 1, 16, 16), dtype=np.float32),
        "biases": np.zeros((2, 4), dtype=np.float32),
        "bounds": np.array([0, 2, 5], dtype=np.int32),
        "total": None,
        "out": np.empty((5, 4), dtype=np.float32),
        "dilation": 3,
        "slope": 0.1,
        "scale": 1.0,
        "threads": 1,
    }
    csrc.conv_pair(*good.values())
    with pytest.raises(ValueError, match=message):
        csrc.conv_pair(*(good | changed).values())


def test_an_instruction_set_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="instruction set sve"):
        csrc.use_instruction_set("sve")


def test_threads_are_those_of_torch(threads: Callable[[int], None]) -> None:
    """Another OpenMP library would bring another set of threads, for the same cores."""
    logits = normal(9, 200_000)
    threads(3)
    logits.exp()
    before = set(os.listdir("/proc/self/task"))
    top_candidates(logits, 3)
    assert set(os.listdir("/proc/self/task")) <= before  # threads of earlier tests may end meanwhile
