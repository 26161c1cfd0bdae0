"""Requests that a thread reads while the model works: the same results, in the same order of admission."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from seamless_engine import AudioError, DecodingParams, Engine, EngineConfig, Request
from support.callers import assert_free
from support.packed import DEVICE
from support.parity import TEXTS, random_request, same

Folder = Callable[[int], Path]


def load(folder: Path, ahead: bool, **fields: Any) -> Engine:
    engine = Engine.from_pretrained(folder, device=DEVICE, dtype="float32", options=EngineConfig(**fields))
    engine.thread.reads_ahead = ahead
    return engine


def request(text: str, length: int = 6) -> Request:
    params = DecodingParams(min_new_tokens=length, max_new_tokens=length)
    return Request("t2tt", "fra", text=text, src_lang="eng", params=params)


@pytest.mark.parametrize("seed", range(3))
def test_reading_ahead_changes_no_result(checkpoint: Folder, seed: int) -> None:
    rng = random.Random(seed)
    fields: dict[str, Any] = {"max_num_seqs": 12, "num_slots": 900, "max_encoder_tokens": 60}
    in_turn, ahead = (load(checkpoint(seed), reads, **fields) for reads in (False, True))
    requests = [random_request(rng, in_turn.languages("s2st")) for _ in range(24)]
    requests.insert(5, Request("s2tt", "fra", audio="missing.wav"))
    expected = in_turn.generate(requests)
    assert isinstance(expected[5].error, AudioError) and sum(result.error is None for result in expected) > 12
    for _ in range(2):
        results = ahead.generate(requests)
        assert repr(results[5].error) == repr(expected[5].error)
        assert all(same(a, b) for i, (a, b) in enumerate(zip(expected, results, strict=True)) if i != 5)


def test_the_model_runs_while_a_request_is_read(checkpoint: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(checkpoint(0), ahead=True, max_encoder_tokens=5)  # a pass is full with one request
    slow, opened = request(TEXTS[1]), threading.Event()
    prepare = engine.preprocessor.prepare

    def reading(one: Request, *others: Any) -> Any:
        assert one != slow or opened.wait(60)
        return prepare(one, *others)

    monkeypatch.setattr(engine.preprocessor, "prepare", reading)
    results = engine.stream([request(TEXTS[0], length=40), slow, request(TEXTS[2])])
    assert next(results).id == 0  # the model was not kept waiting for the second one
    opened.set()
    assert sorted(result.id for result in results) == [1, 2]


def test_an_idle_model_waits_for_a_full_encoder_pass(checkpoint: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(checkpoint(0), ahead=True)
    sizes: list[int] = []
    encode = engine.core.runner.encode

    def counted(admitted: list[Any]) -> None:
        sizes.append(len(admitted))
        encode(admitted)

    monkeypatch.setattr(engine.core.runner, "encode", counted)
    engine.generate([request(text) for text in TEXTS * 10])
    assert sizes == [10 * len(TEXTS)]


def test_stream_pulls_one_encoder_pass_ahead_at_most(checkpoint: Folder) -> None:
    engine = load(checkpoint(0), ahead=True, max_encoder_tokens=40, max_num_seqs=4)
    drawn: list[int] = []

    def endless() -> Iterator[Request]:
        while True:
            drawn.append(len(drawn))
            yield request(TEXTS[len(drawn) % len(TEXTS)])

    results = engine.stream(endless())
    for _ in range(20):
        next(results)
    results.close()
    rows = min(len(engine.preprocessor.tokenizer.encode(text, "eng")) for text in TEXTS)
    assert 20 < len(drawn) <= 20 + 3 * engine.options.max_num_seqs + 40 // rows
    assert_free(engine)


@pytest.mark.parametrize("text", ["how far is it", None], ids=["read", "refused"])
def test_stream_answers_while_its_source_is_slow(checkpoint: Folder, text: str | None) -> None:
    engine = load(checkpoint(0), ahead=True, max_encoder_tokens=40)
    drawn: list[int] = []

    def slow() -> Iterator[Request]:
        while True:
            time.sleep(0.005)
            drawn.append(len(drawn))
            yield request(text) if text else Request("s2tt", "fra", audio="missing.wav")

    results = engine.stream(slow())
    assert (next(results).error is None) == bool(text)
    assert len(drawn) < 60
    results.close()
