"""top_candidates: the largest log-probabilities in a total order, for any vocabulary and any ties."""

from __future__ import annotations

import pytest
import torch

from seamless_kernels.native import csrc
from seamless_kernels.top_candidates import top_candidates
from support.packed import BACKENDS, DEVICE, normal
from tolerance import assert_close_to_fp64

NATIVE = ("native",) if csrc and DEVICE.type == "cpu" else ()
pytestmark = [
    pytest.mark.usefixtures("backend"),
    pytest.mark.parametrize("backend", (*BACKENDS, *NATIVE), indirect=True),
]


def ranked(row: torch.Tensor, count: int) -> list[int]:
    return sorted(range(len(row)), key=lambda token: (-float(row[token]), token))[:count]


def assert_right(logits: torch.Tensor, count: int) -> None:
    log_probs, tokens = top_candidates(logits, count)
    assert tokens.tolist() == [ranked(row, count) for row in logits.tolist()]
    exact = logits.double().log_softmax(-1).gather(1, tokens)
    assert_close_to_fp64(log_probs, exact, terms=logits.shape[1])


@pytest.mark.parametrize("vocab", [10, 63, 64, 65, 208, 5003])
@pytest.mark.parametrize("levels", [None, 3, 1], ids=["distinct", "three-levels", "all-equal"])
def test_top_candidates_are_in_a_total_order(vocab: int, levels: int | None) -> None:
    logits = normal(7, vocab)
    if levels is not None:
        logits = (logits * 10).round().remainder(levels)
    assert_right(logits, 10)


@pytest.mark.parametrize("vocab,count", [(1, 1), (77, 2), (77, 77), (1000, 2), (1000, 128), (5003, 128), (131, 17)])
def test_top_candidates_takes_any_count(vocab: int, count: int) -> None:
    assert_right(20 * normal(3, vocab), count)


def test_top_candidates_takes_zeros_of_either_sign_as_equal() -> None:
    logits = torch.zeros(2, 300, device=DEVICE)
    logits[0, ::3], logits[1, 5:] = -0.0, -0.0
    assert_right(logits, 12)


def test_top_candidates_keeps_small_probabilities() -> None:
    logits = normal(3, 1000)
    logits[:, 333] = torch.tensor([12.0, 25.0, 60.0], device=DEVICE)
    assert_right(logits, 6)


def test_top_candidates_puts_minus_infinity_last() -> None:
    logits = normal(4, 1000)
    logits[0, 10:] = -torch.inf  # fewer are possible than asked for
    logits[1, ::2] = -torch.inf
    logits[2, :900] = -torch.inf
    assert_right(logits, 16)


def test_top_candidates_keeps_the_probability_of_banned_tokens() -> None:
    logits = normal(4, 300)
    free, _ = top_candidates(logits, 4)
    best = logits.argmax(-1)
    log_probs, tokens = top_candidates(logits, 3, best[:, None])
    assert not (tokens == best[:, None]).any()
    assert torch.equal(log_probs, free[:, 1:])


def test_top_candidates_takes_banned_tokens_of_any_number_and_order() -> None:
    logits = normal(4, 3000)
    banned = torch.full((4, 200), -1, device=DEVICE)
    order = logits.argsort(dim=1, descending=True)
    banned[0, ::2] = order[0, :100].flip(0)  # with gaps
    banned[1] = order[1, 0]  # many times the same
    banned[3] = order[3, torch.randperm(3000, generator=torch.Generator().manual_seed(0))[:200].to(DEVICE)]
    log_probs, tokens = top_candidates(logits, 10, banned)
    allowed = logits.clone()
    for row, listed in enumerate(banned.tolist()):
        allowed[row, [token for token in listed if token >= 0]] = -torch.inf
    assert tokens.tolist() == [ranked(row, 10) for row in allowed.tolist()]
    exact = logits.double().log_softmax(-1).gather(1, tokens)
    assert_close_to_fp64(log_probs, exact, terms=logits.shape[1])
    assert torch.equal(top_candidates(logits, 10, banned[:, :0])[0], top_candidates(logits, 10)[0])


def test_top_candidates_chooses_banned_tokens_last() -> None:
    logits = normal(2, 5)
    log_probs, tokens = top_candidates(logits, 5, torch.tensor([[0, 3, 4], [2, -1, 2]], device=DEVICE))
    assert tokens[:, -1].tolist() == [4, 2] and sorted(tokens[0, 2:].tolist()) == [0, 3, 4]
    assert log_probs.isinf().tolist() == [[False, False, True, True, True], [False, False, False, False, True]]


def test_top_candidates_is_batch_invariant() -> None:
    logits = normal(20, 3001)
    alone = [top_candidates(logits[i : i + 1], 6) for i in range(20)]
    for count in (2, 7, 20):
        log_probs, tokens = top_candidates(logits[:count], 6)
        assert torch.equal(log_probs, torch.cat([a for a, _ in alone[:count]]))
        assert torch.equal(tokens, torch.cat([b for _, b in alone[:count]]))


@pytest.mark.parametrize("broken", [torch.nan, -torch.nan, torch.inf])
def test_top_candidates_confines_nan_to_its_query(broken: float) -> None:
    logits = normal(4, 1000)
    logits[1, 5] = broken
    logits[3] = broken
    log_probs, tokens = top_candidates(logits, 4)
    assert log_probs.isnan().all(-1).tolist() == log_probs.isnan().any(-1).tolist() == [False, True, False, True]
    assert ((tokens >= 0) & (tokens < 1000)).all()


def test_top_candidates_takes_any_stride_and_no_queries() -> None:
    wide = normal(6, 700)
    for padded, plain in ((wide[:, :611], wide[:, :611].contiguous()), (wide[::2], wide[::2].contiguous())):
        assert all(torch.equal(a, b) for a, b in zip(top_candidates(padded, 5), top_candidates(plain, 5), strict=True))
    assert [part.shape for part in top_candidates(wide[:0].contiguous(), 5)] == [(0, 5), (0, 5)]
