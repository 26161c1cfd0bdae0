"""What must not cost quality does not, on the demo's checkpoint and sentences that it was never trained on."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pytest

import support.repository  # noqa: F401
from demo.train.units import synthesize
from demo.train.voices import RATE, Espeak
from seamless_engine import DecodingParams, Request
from support.snippets import ROOT
from tools.quality import Answer, Ours, Theirs, figures, read_manifest, request

CHECKPOINT = str(ROOT / "demo" / "checkpoint")
LOSS = 0.2  # points of word error rate that precision or search may cost
SPOKEN = 40  # sentences of the tests with speech


@functools.cache
def sentences() -> tuple[dict[str, Any], ...]:
    """Held-out sentences with a translation; the first ones also as speech."""
    items = read_manifest(ROOT / "demo" / "heldout.jsonl", None)
    espeak = Espeak()
    for index, item in enumerate(items[:SPOKEN]):
        item["audio"] = synthesize(espeak, item["text"], item["src_lang"], index % 2).samples
    return tuple(items)


def asked(task: str) -> tuple[list[Request], list[str]]:
    """Requests and right answers."""
    requests, answers = [], []
    for item in sentences():
        has_audio = isinstance(item.get("audio"), np.ndarray)
        if task in ("asr", "s2tt", "s2st") and not has_audio:
            continue
        made = request(task, {**item, "audio": "x"} if has_audio else item)
        assert made is not None
        ask, right = made
        if ask.audio is not None:
            ask.audio, ask.sampling_rate = item["audio"], RATE
        requests.append(ask)
        answers.append(right)
    return requests, answers


@functools.cache
def ours(dtype: str) -> Ours:
    return Ours(CHECKPOINT, "cpu", dtype)


@functools.cache
def answers(dtype: str, task: str, beams: int) -> tuple[Answer, ...]:
    return tuple(ours(dtype)(asked(task)[0], beams))


def error_rate(dtype: str, task: str, beams: int) -> float:
    """Word error rate in per cent."""
    said = [answer.text for answer in answers(dtype, task, beams)]
    return figures(asked(task)[1], said)[0]


@pytest.mark.parametrize("task", ["asr", "t2tt"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_costs_no_quality(dtype: str, task: str):
    assert error_rate(dtype, task, 5) <= error_rate("float32", task, 5) + LOSS


@pytest.mark.parametrize("task", ["asr", "s2tt", "t2tt"])
def test_beams_cost_no_quality_against_greedy(task: str):
    assert error_rate("float32", task, 5) <= error_rate("float32", task, 1) + LOSS


def test_answers_in_a_mixed_batch_are_those_of_each_request_alone():
    engine = ours("float32").engine
    requests = list(itertools.chain(*(asked(task)[0][:6] for task in ("asr", "s2tt", "s2st", "t2tt", "t2st"))))
    params = DecodingParams(num_beams=5)
    together = engine.generate(requests, params)
    for ask, result in zip(requests, together, strict=True):
        [alone] = engine.generate([ask], params)
        assert (result.text, result.tokens, result.score) == (alone.text, alone.tokens, alone.score)
        if alone.audio is None:
            assert result.audio is None
        else:
            assert result.audio is not None and np.array_equal(result.audio, alone.audio)


def test_transformers_writes_the_same_tokens():
    theirs = Theirs(CHECKPOINT, "cpu", "float32")
    pairs: list[tuple[list[int], list[int]]] = []
    for task in ("asr", "s2tt", "t2tt"):
        reference = theirs(asked(task)[0], 5)
        pairs += [(a.tokens, b.tokens) for a, b in zip(answers("float32", task, 5), reference, strict=True)]
    different = [pair for pair in pairs if pair[0] != pair[1]]
    assert len(different) <= 0.01 * len(pairs), different


@pytest.mark.parametrize("task, limit", [("asr", 5.0), ("s2tt", 15.0), ("t2tt", 5.0)])
def test_held_out_sentences_are_understood(task: str, limit: float):
    assert error_rate("float32", task, 5) <= limit
