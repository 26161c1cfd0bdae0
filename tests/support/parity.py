"""Random requests of every kind, and what it means that a result equals the reference or another run."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pytest

from seamless_engine import DecodingParams, Request, Result
from seamless_engine.request import SPEECH_IN, SPEECH_OUT, TASKS
from support.audio import clip_of_samples
from support.oracle import Oracle
from tolerance import MARGIN, SCORE_ATOL, SCORE_RTOL, WAVEFORM_ATOL

TEXTS = (
    "Good morning! How are you today?",
    "Il y a 3 chats, 12 chiens et 478 oiseaux dans le jardin ; personne n'a compté les poissons.",
    "The train to the city leaves at 9:45.",
    "Guten Morgen!",
    "a",
    "¿Dónde está la llave? Nobody knows - not even she.",
)
# Samples for L mod 8 from 0 to 7 with an even and an odd number of feature frames.
CLIPS = tuple(400 + 160 * (2 * (16 + i) - 1 + odd) for i in range(8) for odd in (0, 1)) + (560, 720, 33_000)


def random_request(rng: random.Random, languages: list[str]) -> Request:
    task = rng.choice(TASKS)
    params = DecodingParams(
        num_beams=rng.choice([1, 2, 3, 4, 5]),
        max_new_tokens=rng.choice([3, 8, 20]),
        length_penalty=rng.choice([0.0, 0.6, 1.0, 2.0]),
        early_stopping=rng.choice([False, True, "never"]),
        min_new_tokens=rng.choice([0, 0, 0, 3]),
        repetition_penalty=rng.choice([1.0, 1.0, 1.3]),
        no_repeat_ngram_size=rng.choice([0, 0, 0, 1, 2]),
        bad_words_ids=rng.choice([None, None, ((40,), (12, 13), (3,))]),
        suppress_tokens=rng.choice([None, None, (50, 51, 52)]),
    )
    target = rng.choice(languages)
    voice = rng.randrange(2) if task in SPEECH_OUT else None
    if task in SPEECH_IN:
        audio = clip_of_samples(rng.randrange(1000), rng.choice(CLIPS))
        return Request(task, target, audio=audio, sampling_rate=16_000, speaker_id=voice, params=params)
    return Request(
        task, target, text=rng.choice(TEXTS), src_lang=rng.choice(languages), speaker_id=voice, params=params
    )


def same(a: Result, b: Result) -> bool:
    """Equal to the last bit, waveform and score included."""
    discrete = all(getattr(a, name) == getattr(b, name) for name in ("tokens", "text", "score", "finish_reason"))
    return discrete and repr(a.error) == repr(b.error) and _equal(a.units, b.units) and _equal(a.audio, b.audio)


def _equal(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is b is None or (a is not None and b is not None and np.array_equal(a, b))


@dataclass(frozen=True)
class Agreement:
    """Between a result and the reference at batch size 1.

    tokens, units: equal; units is None for text tasks and where the texts differ already.
    waveform: largest difference of a sample; None where there is none to compare, inf where the lengths differ.
    excused: something discrete differs, and the reference's own margin there is below MARGIN.
    """

    tokens: bool
    units: bool | None = None
    waveform: float | None = None
    excused: bool = False

    @property
    def holds(self) -> bool:
        equal = self.tokens and self.units is not False and (self.waveform or 0.0) <= WAVEFORM_ATOL
        return equal or self.excused


def agreement(result: Result, request: Request, oracle: Oracle) -> Agreement:
    params = request.params or DecodingParams()
    reference = oracle.text(request, params)
    if result.tokens != reference.tokens:
        return Agreement(tokens=False, excused=reference.margin < MARGIN)
    if reference.score is not None:
        assert result.score == pytest.approx(reference.score, abs=SCORE_ATOL, rel=SCORE_RTOL)
    if request.task not in SPEECH_OUT:
        return Agreement(tokens=True)
    speech = oracle.speech(request, params)
    assert result.units is not None and result.audio is not None
    units = [u if u == 1 else 1 if u == 2 else u - 4 for u in speech.units]  # eos → pad, else the control ids removed
    if result.units.tolist() != units:
        return Agreement(True, units=False, excused=speech.unit_margin < MARGIN)
    if len(result.audio) != len(speech.waveform):
        return Agreement(True, True, float("inf"), excused=speech.duration_margin < MARGIN)
    difference = np.abs(result.audio - speech.waveform).max() if len(units) else None
    return Agreement(True, True, None if difference is None else float(difference))
