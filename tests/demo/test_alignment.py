"""Character durations of the recipe: the best path of all paths, and durations that a unit model can have."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import support.repository  # noqa: F401
from demo.train.alignment import durations, first_frames


def best_by_enumeration(scores: np.ndarray, labels: list[int]) -> float:
    """Log-probability of the best frame-by-frame path that reads `labels`."""

    def reads(path: tuple[int, ...]) -> list[int]:
        return [label for label, _ in itertools.groupby(path) if label]

    paths = itertools.product(range(scores.shape[1]), repeat=len(scores))
    return max(sum(scores[t, p] for t, p in enumerate(path)) for path in paths if reads(path) == labels)


@pytest.mark.parametrize("labels", [[1], [1, 2], [1, 1], [2, 1, 2], [2, 2, 1]])
@pytest.mark.parametrize("seed", range(4))
def test_first_frames_lie_on_a_best_path(labels: list[int], seed: int):
    scores = np.log(np.random.default_rng(seed).dirichlet(np.ones(3), 6))
    starts = first_frames(scores, labels)
    assert all(a < b for a, b in itertools.pairwise(starts))
    ends = [*starts[1:], len(scores)]
    total = scores[: starts[0], 0].sum()
    for k, (label, start, end) in enumerate(zip(labels, starts, ends, strict=True)):
        following = labels[k + 1] if k + 1 < len(labels) else None
        last = end - 1 if following == label else end  # the same label again needs a blank between
        total += max(scores[start:stop, label].sum() + scores[stop:end, 0].sum() for stop in range(start + 1, last + 1))
    assert total == pytest.approx(best_by_enumeration(scores, labels))


@given(st.lists(st.integers(0, 30), min_size=1, max_size=20).map(sorted), st.integers(0, 20))
def test_durations_gives_every_character_a_unit_and_uses_all(first: list[int], spare: int):
    frames = max(len(first) + 1, first[-1] + 1) + spare
    lasting = durations(first, frames)
    assert len(lasting) == len(first) + 1
    assert lasting.min() >= 1 and lasting.sum() == frames


def test_durations_refuses_too_few_units():
    with pytest.raises(ValueError, match="do not fit"):
        durations([0, 1, 2], 3)
