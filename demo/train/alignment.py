"""Where each character of a sentence begins in its speech: Viterbi through the CTC head of the speech encoder."""

from __future__ import annotations

import numpy as np


def first_frames(scores: np.ndarray, labels: list[int]) -> list[int]:
    """First frame of each label on the best path. scores: log-probabilities [frames, labels + 1], blank is 0."""
    states = np.zeros(2 * len(labels) + 1, int)  # blank, label, blank, …
    states[1::2] = labels
    skips = np.zeros(len(states), bool)  # a label may follow another without a blank between
    skips[3::2] = states[3::2] != states[1:-2:2]
    best = np.full(len(states), -np.inf)
    best[:2] = scores[0, states[:2]]
    steps = np.zeros((len(scores), len(states)), int)
    for t in range(1, len(scores)):
        one = np.concatenate([[-np.inf], best[:-1]])
        two = np.where(skips, np.concatenate([[-np.inf, -np.inf], best[:-2]]), -np.inf)
        ways = np.stack([best, one, two])
        steps[t] = ways.argmax(0)
        best = ways.max(0) + scores[t, states]
    state = len(states) - (1 if best[-1] > best[-2] else 2)
    first = [0] * len(labels)
    for t in range(len(scores) - 1, -1, -1):
        if state % 2:
            first[state // 2] = t
        state -= steps[t, state]
    return first


def durations(first: list[int], frames: int) -> np.ndarray:
    """int64 [labels + 1], at least 1 each and `frames` in all; number 0 is the word boundary that opens a text, which
    takes the silence in front. Raises ValueError if there are fewer frames than characters."""
    starts = np.array([0, *first])
    if frames < len(starts):
        raise ValueError(f"{len(starts)} characters do not fit into {frames} frames")
    places = np.arange(len(starts))
    starts = np.maximum.accumulate(starts - places) + places  # strictly rising
    starts = np.minimum(starts, frames - len(starts) + places)
    return np.diff(np.append(starts, frames))
