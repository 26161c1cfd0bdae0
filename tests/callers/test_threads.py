"""Several threads, and several calls of one thread, share an engine: each gets what it would get alone."""

from __future__ import annotations

import gc
import io
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seamless_engine import (
    AsyncEngine,
    AudioError,
    Engine,
    EngineClosedError,
    EngineConfig,
    Request,
    SeamlessError,
    UsageError,
    hf,
)
from seamless_engine.model_inputs import Tokens
from support.async_engine import run
from support.callers import PATIENCE, assert_free, beside, drain, heard, mixture, sentence
from support.hf import text
from support.parity import TEXTS, same

Checkpoint = Callable[[int], Path]


def ordered(engine: Engine, requests: list[Request]) -> list[Any]:
    return sorted(engine.stream(requests), key=lambda result: result.id)


def test_calls_of_several_threads_equal_calls_alone(engine: Engine) -> None:
    requests = [mixture(seed) for seed in range(3)]
    expected = [engine.generate(few) for few in requests]
    tokens = Tokens(engine.preprocessor.tokenizer.encode(TEXTS[0], "eng"))
    logits = engine.forced_logits(tokens, [3, 5, 9])
    together = threading.Barrier(5)

    def generates(seed: int) -> None:
        together.wait(PATIENCE)
        for _ in range(3):
            for ask in (Engine.generate, ordered):
                found = ask(engine, requests[seed])
                assert all(same(a, b) for a, b in zip(expected[seed], found, strict=True))

    def synthesizes() -> None:
        together.wait(PATIENCE)
        for _ in range(3):
            assert same(drain(engine.stream_audio(requests[0][1])), expected[0][1])

    def looks() -> None:
        together.wait(PATIENCE)
        for _ in range(10):
            assert torch.equal(engine.forced_logits(tokens, [3, 5, 9]), logits)
            assert engine.memory()["kv_pool"] > 0 and "fra" in engine.languages("t2tt")

    for call in [*(beside(generates, seed) for seed in range(3)), beside(synthesizes), beside(looks)]:
        call.result(PATIENCE)


def test_calls_of_several_threads_share_few_beams(checkpoint: Checkpoint) -> None:
    options = EngineConfig(max_num_seqs=4, num_slots=640, max_encoder_tokens=40, max_synthesis_tokens=8)
    engine = Engine.from_pretrained(checkpoint(1), device="cpu", options=options)
    requests = [mixture(seed) * 2 for seed in range(3)]
    expected = [engine.generate(few) for few in requests]
    for _ in range(2):
        for call, want in zip([beside(ordered, engine, few) for few in requests], expected, strict=True):
            assert all(same(a, b) for a, b in zip(want, call.result(PATIENCE), strict=True))


def test_drop_in_generate_of_several_threads_equals_calls_alone(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    model = hf.SeamlessM4Tv2ForTextToText.from_pretrained(folder, device="cpu")
    inputs = [text(folder, one) for one in TEXTS[:3]]

    def answer(index: int) -> torch.Tensor:
        found = model.generate(**inputs[index], tgt_lang="fra", max_new_tokens=8)
        assert isinstance(found, torch.Tensor)
        return found

    expected = [answer(index) for index in range(3)]
    for _ in range(4):
        for call, want in zip([beside(answer, index) for index in range(3)], expected, strict=True):
            assert torch.equal(call.result(PATIENCE), want)


def test_a_suspended_stream_delays_no_other_call(engine: Engine) -> None:
    requests = [*mixture(0), *mixture(3)]
    expected, speech = engine.generate(requests), requests[1]
    results, pieces = engine.stream(requests), engine.stream_audio(speech)
    found, samples = [next(results)], [next(pieces)]
    for _ in range(2):  # and neither does one of another thread
        others = beside(engine.generate, requests).result(PATIENCE)
        assert all(same(a, b) for a, b in zip(expected, others, strict=True))
    samples += list(pieces)
    assert np.array_equal(np.concatenate(samples), expected[1].audio)  # type: ignore[arg-type]
    found += results
    assert all(same(a, b) for a, b in zip(expected, sorted(found, key=lambda one: one.id), strict=True))


def test_calls_work_inside_a_suspended_stream_of_their_thread(engine: Engine) -> None:
    requests = mixture(1)
    expected = engine.generate(requests)
    found = []
    for result in engine.stream(requests):
        found.append(result)
        inner = engine.generate(requests[:2])
        assert all(same(a, b) for a, b in zip(expected, inner, strict=False))
        for _ in engine.stream_audio(requests[1]):
            assert same(engine.generate(requests[:1])[0], expected[0])
            break  # the rest is given up
    assert all(same(a, b) for a, b in zip(expected, sorted(found, key=lambda one: one.id), strict=True))


def test_an_abandoned_stream_frees_its_requests(engine: Engine) -> None:
    requests = mixture(2) * 3
    expected = engine.generate(requests)
    others = beside(ordered, engine, requests)
    for taken in (1, 2):
        results = engine.stream(requests)
        for _ in range(taken):
            next(results)
        del results
    assert all(same(a, b) for a, b in zip(expected, others.result(PATIENCE), strict=True))


def test_a_stream_can_be_garbage_collected_in_the_engine_thread(engine: Engine) -> None:
    """As garbage, which is collected in whichever thread runs."""
    holder: list[Any] = [engine.stream(mixture(0) * 2)]
    next(holder[0])
    holder.append(holder)
    del holder
    beside(engine.thread.call, gc.collect).result(PATIENCE)
    assert engine.generate(mixture(0))[0].error is None


def test_two_engine_threads_can_close_streams_of_each_other(engine: Engine, checkpoint: Checkpoint) -> None:
    engines = [engine, Engine.from_pretrained(checkpoint(1), device="cpu")]
    streams, both = [one.stream(mixture(0) * 2) for one in engines], threading.Barrier(2)
    for stream in streams:
        next(stream)

    def closes(stream: Any) -> None:
        both.wait(PATIENCE)
        stream.close()

    calls = [beside(one.thread.call, partial(closes, streams[1 - i])) for i, one in enumerate(engines)]
    for call in calls:
        call.result(PATIENCE)
    for one in engines:
        assert_free(one)


def test_serve_raises_what_its_condition_raises_to_its_caller_alone(engine: Engine) -> None:
    def raises() -> bool:
        raise CancelledError

    others = beside(engine.generate, mixture(0) * 2)
    with pytest.raises(CancelledError):
        engine.thread.serve(engine.thread.intake(readers=1), raises)
    assert all(result.error is None for result in others.result(PATIENCE))


def test_generate_ends_its_reader_threads(engine: Engine) -> None:
    before = threading.active_count()
    for _ in range(20):
        engine.generate([heard(0), sentence(0)])
    deadline = time.monotonic() + PATIENCE
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("fails", ["work", "stream_audio"])
def test_a_dropped_error_frees_the_tensors_of_its_frames(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    monkeypatch.setattr(logging.getLogger("seamless_engine.recovery"), "disabled", True)  # pytest keeps log records
    held: list[weakref.ref[Any]] = []

    class Decoder:
        def get_all_samples(self) -> Any:
            return raises()

    def raises() -> None:
        tensor = torch.zeros(10)
        held.append(weakref.ref(tensor))
        raise ValueError

    calls: dict[str, Callable[[], object]] = {
        "work": lambda: engine.thread.call(raises),
        "stream_audio": lambda: list(engine.stream_audio(Request("s2st", "fra", audio=Decoder()))),
    }
    gc.collect()
    gc.disable()
    try:
        with suppress(ValueError, SeamlessError):
            calls[fails]()
        engine.thread.call(lambda: None)  # the engine's thread has gone on
        deadline = time.monotonic() + PATIENCE
        while held[0]() is not None:  # and a thread that reads goes on soon
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        gc.enable()


@pytest.mark.parametrize("ends", ["step", "close"])
@pytest.mark.parametrize("call", ["generate", "stream_audio"])
def test_the_failure_of_a_call_frees_its_requests(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, call: str, ends: str
) -> None:
    monkeypatch.setattr(logging.getLogger("seamless_engine.intake"), "disabled", True)  # pytest keeps log records

    def breaks() -> None:
        if ends == "close":
            engine.core.fail(EngineClosedError())
        else:
            raise RuntimeError

    def fails() -> weakref.ref[Any]:
        audio = np.zeros(16_000, np.float32)
        request = Request("s2st", "fra", audio=audio, sampling_rate=16_000)
        with suppress(RuntimeError, EngineClosedError):
            engine.generate(request) if call == "generate" else list(engine.stream_audio(request))
        return weakref.ref(audio)

    monkeypatch.setattr(engine.core, "step", breaks)
    gc.collect()
    gc.disable()
    try:
        held = fails()
        engine.thread.call(lambda: None)  # the engine's thread has gone on
        deadline = time.monotonic() + PATIENCE
        while held() is not None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        gc.enable()


@pytest.mark.parametrize("ahead", [False, True])
def test_a_blocked_source_or_file_delays_its_own_call_alone(engine: Engine, ahead: bool) -> None:
    opened, waiting = threading.Event(), threading.Semaphore(0)

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            waiting.release()
            assert opened.wait(PATIENCE)
            return super().read(size)

    def source() -> Iterator[Request]:
        yield sentence(0)
        waiting.release()
        assert opened.wait(PATIENCE)
        yield sentence(1)

    engine.thread.reads_ahead = ahead
    try:
        slow = beside(ordered, engine, source())  # type: ignore[arg-type]
        reads = beside(engine.generate, [Request("asr", "fra", audio=Slow(b"RIFF")), sentence(1)])
        for _ in range(2):
            assert waiting.acquire(timeout=PATIENCE)
        requests = mixture(4)
        for result in engine.generate(requests):
            assert result.error is None
        assert not slow.done() and not reads.done()
        opened.set()
        assert [result.error for result in slow.result(PATIENCE)] == [None, None]
        refused, answered = reads.result(PATIENCE)
        assert isinstance(refused.error, AudioError) and answered.error is None
    finally:
        engine.thread.reads_ahead = False


def test_a_broken_step_ends_every_running_call_and_no_later_one(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = mixture(0)
    expected = engine.generate(requests)
    suspended = engine.stream(mixture(3) * 2)
    next(suspended)
    synthesize, both = engine.core.runner.synthesize, threading.Event()

    def breaks(jobs: list[Any]) -> None:
        assert both.wait(PATIENCE)
        raise torch.AcceleratorError("an illegal memory access")

    with monkeypatch.context() as patch:
        patch.setattr(engine.core.runner, "synthesize", breaks)
        calls = [beside(engine.generate, requests) for _ in range(2)]
        while len(engine.thread.calls) < 3:
            pass
        both.set()
        for call in calls:
            with pytest.raises(torch.AcceleratorError, match="illegal memory access"):
                call.result(PATIENCE)
    assert engine.core.runner.synthesize == synthesize
    with pytest.raises(torch.AcceleratorError, match="illegal memory access"):
        list(suspended)
    assert all(same(a, b) for a, b in zip(expected, engine.generate(requests), strict=True))


def test_an_open_async_engine_and_direct_calls_refuse_each_other(engine: Engine) -> None:
    results = engine.stream([heard(0), heard(1)])
    next(results)
    with pytest.raises(UsageError, match="this engine is in use"):
        AsyncEngine(engine)
    results.close()
    shared = AsyncEngine(engine)
    tokens = Tokens(engine.preprocessor.tokenizer.encode("a", "eng"))
    for call in (
        lambda: engine.generate([sentence(0)]),
        lambda: next(engine.stream([sentence(0)])),
        lambda: next(engine.stream_audio(sentence(0, "t2st"))),
        lambda: engine.forced_logits(tokens, [3, 5]),
        engine.close,
    ):
        with pytest.raises(UsageError, match="belongs to an AsyncEngine"):
            beside(call).result(PATIENCE)
    run(shared.close())
    assert engine.generate([sentence(0)])[0].error is None
