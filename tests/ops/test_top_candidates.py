"""top_candidates: the largest log-probabilities in a total order, for any vocabulary and any ties."""

from __future__ import annotations

import pytest
import torch

from seamless_kernels.top_candidates import top_candidates
from support.packed import normal
from tolerance import assert_close_to_fp64


def ranked(row: torch.Tensor, count: int) -> list[int]:
    return sorted(range(len(row)), key=lambda token: (-float(row[token]), token))[:count]


@pytest.mark.parametrize("vocab", [10, 63, 64, 65, 208, 5003])
@pytest.mark.parametrize("levels", [None, 3, 1], ids=["distinct", "three-levels", "all-equal"])
def test_order_is_total(vocab: int, levels: int | None) -> None:
    logits = normal(7, vocab)
    if levels is not None:
        logits = (logits * 10).round().remainder(levels)
    log_probs, tokens = top_candidates(logits, 10)
    assert tokens.tolist() == [ranked(row, 10) for row in logits]
    assert_close_to_fp64(
        log_probs, logits.log_softmax(-1).gather(1, tokens), logits.double().log_softmax(-1).gather(1, tokens)
    )


def test_banned_entries_keep_their_mass_but_are_not_chosen() -> None:
    logits = normal(4, 300)
    free, _ = top_candidates(logits, 4)
    best = logits.argmax(-1)
    log_probs, tokens = top_candidates(logits, 3, (torch.arange(4), best))
    assert not (tokens == best[:, None]).any()
    assert torch.equal(log_probs, free[:, 1:])


def test_a_row_does_not_feel_the_others() -> None:
    logits = normal(50, 3001)
    alone = [top_candidates(logits[i : i + 1], 6) for i in range(50)]
    for count in (2, 7, 50):
        log_probs, tokens = top_candidates(logits[:count], 6)
        assert torch.equal(log_probs, torch.cat([a for a, _ in alone[:count]]))
        assert torch.equal(tokens, torch.cat([b for _, b in alone[:count]]))


def test_nan_shows_in_its_own_row() -> None:
    logits = normal(3, 100)
    logits[1, 5] = torch.nan
    log_probs, _ = top_candidates(logits, 4)
    assert log_probs.isnan().any(-1).tolist() == [False, True, False]
