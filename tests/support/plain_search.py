"""Beam search of one sentence in plain Python lists, written from its definition: the reference of the beam step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Hypothesis:
    score: float
    tokens: tuple[int, ...]


def beam_search(
    log_probs: Callable[[tuple[int, ...]], Sequence[float]],
    *,
    eos: int,
    num_beams: int,
    max_new_tokens: int,
    length_penalty: float,
    early_stopping: bool | str,
) -> list[Hypothesis]:
    """Finished hypotheses, best first. `log_probs(tokens)` is the model; scores are rounded to float32 at each step."""
    running = [Hypothesis(0.0, ())]
    done: list[Hypothesis] = []
    early = early_stopping is True or num_beams == 1
    while True:
        ranked = sorted(
            (
                (-_f32(beam.score + value), parent, token)
                for parent, beam in enumerate(running)
                for token, value in enumerate(log_probs(beam.tokens))
            ),
        )[: 2 * num_beams]
        length = len(running[0].tokens) + 1
        norm = float(length) ** length_penalty
        going: list[Hypothesis] = []
        for rank, (negative, parent, token) in enumerate(ranked):
            tokens = (*running[parent].tokens, token)
            if token == eos or length >= max_new_tokens:
                if rank < num_beams:
                    done.append(Hypothesis(_f32(-negative / norm), tokens))
            else:
                going.append(Hypothesis(-negative, tokens))
        done = sorted(done, key=lambda h: -h.score)[:num_beams]
        running = going[:num_beams]
        if not running or (early and len(done) == num_beams):
            return done
        longest = max_new_tokens if early_stopping == "never" and length_penalty > 0 else length
        if len(done) == num_beams and _f32(running[0].score / float(longest) ** length_penalty) <= done[-1].score:
            return done


def _f32(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float32))
