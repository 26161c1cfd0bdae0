"""linear_top_candidates: the bits of `linear` and `top_candidates` one after the other."""

from __future__ import annotations

import pytest
import torch

from seamless_kernels.linear import linear
from seamless_kernels.linear_top_candidates import linear_top_candidates
from seamless_kernels.top_candidates import top_candidates
from support.packed import DEVICE, DTYPES, normal

pytestmark = pytest.mark.usefixtures("backend", "products_in_order")


def one_by_one(
    hidden: torch.Tensor, weight: torch.Tensor, count: int, banned: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    return top_candidates(linear(hidden, weight, out_dtype=torch.float32), count, banned)


def assert_equal(one: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows,vocab,dim", [(1, 1000, 64), (5, 77, 512), (67, 300, 64)])
def test_linear_top_candidates_equals_the_two_operations(rows: int, vocab: int, dim: int, dtype: torch.dtype) -> None:
    hidden, weight = normal(rows, dim, dtype=dtype), normal(vocab, dim, dtype=dtype, seed=1)
    for count in (2, 10):
        assert_equal(linear_top_candidates(hidden, weight, count), one_by_one(hidden, weight, count))


@pytest.mark.parametrize("vocab,count", [(1, 1), (16, 16), (300, 17), (300, 128)])
def test_linear_top_candidates_takes_any_count(vocab: int, count: int) -> None:
    hidden, weight = normal(3, 64), normal(vocab, 64, seed=1)
    assert_equal(linear_top_candidates(hidden, weight, count), one_by_one(hidden, weight, count))


def test_linear_top_candidates_prefers_the_smaller_token_on_ties() -> None:
    hidden, weight = normal(20, 64), normal(10, 64, seed=1).repeat(60, 1)
    log_probs, tokens = linear_top_candidates(hidden, weight, 10)
    best = (hidden @ weight[:10].T).argmax(1)
    assert tokens.tolist() == [[token + 10 * i for i in range(10)] for token in best.tolist()]
    assert (log_probs == log_probs[:, :1]).all()


def test_linear_top_candidates_masks_banned_tokens_as_the_two_operations() -> None:
    hidden, weight = normal(20, 64), normal(900, 64, seed=1)
    order = linear(hidden, weight).argsort(dim=1, descending=True)
    banned = torch.full((20, 40), -1, device=DEVICE)
    for row in range(1, 20):  # more and more of them, in disorder
        banned[row, row : 2 * row] = order[row, :row].flip(0)
        banned[row, -1] = order[row, 2 * row]
    banned[7] = order[7, 0]
    assert_equal(linear_top_candidates(hidden, weight, 6, banned), one_by_one(hidden, weight, 6, banned))
    few = order[:, :1] // 400 * 400
    assert_equal(linear_top_candidates(hidden, weight, 6, few), one_by_one(hidden, weight, 6, few))


def test_linear_top_candidates_is_batch_invariant() -> None:
    hidden, weight = normal(80, 64), normal(700, 64, seed=1)
    together = linear_top_candidates(hidden, weight, 4)
    for rows in (slice(0, 1), slice(3, 8), slice(7, 24), slice(10, 75)):
        assert_equal(linear_top_candidates(hidden[rows].clone(), weight, 4), tuple(part[rows] for part in together))


def test_linear_top_candidates_confines_nan_to_its_query() -> None:
    hidden, weight = normal(6, 64), normal(500, 64, seed=1)
    clean = linear_top_candidates(hidden, weight, 4)
    hidden[2, 9] = torch.nan
    log_probs, tokens = linear_top_candidates(hidden, weight, 4)
    others = [0, 1, 3, 4, 5]
    assert log_probs[2].isnan().all() and ((tokens >= 0) & (tokens < 500)).all()
    assert_equal((log_probs[others], tokens[others]), (clean[0][others], clean[1][others]))


def test_linear_top_candidates_takes_any_stride_and_no_queries() -> None:
    wide, weight = normal(6, 100), normal(150, 64, seed=1)
    hidden = wide[:, 20:84]
    assert_equal(linear_top_candidates(hidden, weight, 3), linear_top_candidates(hidden.contiguous(), weight, 3))
    assert [part.shape for part in linear_top_candidates(hidden[:0], weight, 3)] == [(0, 3), (0, 3)]
