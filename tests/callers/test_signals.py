"""What a signal handler raises leaves the call that it interrupts, at any moment, and nothing else notices."""

from __future__ import annotations

import itertools
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from seamless_engine import AsyncEngine, Engine, Request, calls, hf
from seamless_engine.threads import Outcome
from support.callers import PATIENCE, beside, drain, heard, mixture, sentence
from support.hf import text
from support.parity import TEXTS, same

Checkpoint = Callable[[int], Path]


class SoftTimeLimitExceeded(Exception):
    """As Celery's, which is an Exception."""


KINDS = [SoftTimeLimitExceeded, TimeoutError, MemoryError, KeyboardInterrupt]


class Limit:
    """A signal whose handler raises `kind` in the main thread, while another thread waits in `strike`."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind
        self.heard = threading.Event()

    def handle(self, *_: object) -> None:
        self.heard.set()
        raise self.kind("the limit")

    def strike(self) -> None:
        if not self.heard.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            assert self.heard.wait(PATIENCE)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def limit(request: pytest.FixtureRequest) -> Iterator[Limit]:
    limit = Limit(request.param)
    before = signal.signal(signal.SIGUSR1, limit.handle)
    yield limit
    signal.signal(signal.SIGUSR1, before)


def strikes(limit: Limit, whole: Callable[..., Any], at: int = 0) -> Callable[..., Any]:
    """`whole`, in whose call number `at` the limit strikes."""
    calls = iter(range(1_000_000))

    def struck(*arguments: Any) -> Any:
        if next(calls) == at:
            limit.strike()
        return whole(*arguments)

    return struck


@pytest.mark.parametrize(
    "owner,name,at",
    [
        ("runner", "encode", 0),
        ("runner", "decode", 0),
        ("runner", "decode", 3),
        ("runner", "_decode", 2),
        ("runner", "synthesize", 0),
        ("runner", "finish", 1),
        ("preprocessor", "prepare", 2),
    ],
)
def test_generate_raises_what_a_signal_handler_raises(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, limit: Limit, owner: str, name: str, at: int
) -> None:
    requests = mixture(0)
    expected = engine.generate(requests)
    others = beside(engine.generate, mixture(1))
    part = getattr(engine.core, owner)
    with monkeypatch.context() as patch:
        patch.setattr(part, name, strikes(limit, getattr(part, name), at))
        with pytest.raises(limit.kind, match="the limit"):
            engine.generate(requests)
    assert all(result.error is None for result in others.result(PATIENCE))
    assert all(same(a, b) for a, b in zip(expected, engine.generate(requests), strict=True))


def test_stream_and_stream_audio_raise_what_a_signal_handler_raises(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, limit: Limit
) -> None:
    requests, speech = mixture(0), sentence(0, "t2st")
    expected, whole = engine.generate(requests), engine.generate([speech])[0]
    with monkeypatch.context() as patch:
        patch.setattr(engine.core, "step", strikes(limit, engine.core.step, 2))
        with pytest.raises(limit.kind, match="the limit"):
            list(engine.stream(requests))
    limit.heard.clear()
    pieces = engine.stream_audio(speech)
    next(pieces)
    with monkeypatch.context() as patch:
        patch.setattr(calls, "next_piece", strikes(limit, calls.next_piece))
        with pytest.raises(limit.kind, match="the limit"):
            list(pieces)
    assert same(drain(engine.stream_audio(speech)), whole)
    assert all(same(a, b) for a, b in zip(expected, engine.generate(requests), strict=True))


def test_an_interrupted_async_engine_leaves_the_engine_free(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    wait = engine.thread.result_of

    def interrupted(outcome: Outcome[Any]) -> None:
        wait(outcome)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine.thread, "result_of", interrupted)
        with pytest.raises(KeyboardInterrupt):
            AsyncEngine(engine)
    engine.thread.call(lambda: None)  # the engine's thread has gone on
    assert engine.generate(sentence(0)).error is None


def test_serve_can_be_interrupted_at_any_instruction(engine: Engine) -> None:
    """Where a handler runs is up to the interpreter, so an exception is raised before each instruction in turn."""
    before = sys.gettrace()
    for at in itertools.count():
        instructions = itertools.count()

        def trace(frame: FrameType, event: str, _: Any, at: int = at, counted: Any = instructions) -> Any:
            frame.f_trace_opcodes = True
            if event == "opcode" and next(counted) == at:
                raise KeyboardInterrupt
            return trace

        interrupted = False
        intake = engine.thread.intake(readers=1)
        sys.settrace(trace)
        try:
            engine.thread.serve(intake, lambda: True)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            sys.settrace(before)
        beside(engine.thread.call, lambda: None).result(PATIENCE)
        if not interrupted:
            break
    assert at > 50


def test_stream_raises_what_a_signal_handler_raises_in_its_source(engine: Engine, limit: Limit) -> None:
    def source() -> Iterator[Request]:
        yield heard(0)
        signal.raise_signal(signal.SIGUSR1)

    with pytest.raises(limit.kind, match="the limit"):
        list(engine.stream(source()))


def test_drop_in_generate_raises_what_a_signal_handler_raises(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, limit: Limit
) -> None:
    model = hf.SeamlessM4Tv2ForTextToText.from_pretrained(checkpoint(0), device="cpu")
    inputs = text(checkpoint(0), *TEXTS[:2])
    runner = model.engine.core.runner
    monkeypatch.setattr(runner, "decode", strikes(limit, runner.decode, 2))
    with pytest.raises(limit.kind, match="the limit"):
        model.generate(**inputs, tgt_lang="fra", max_new_tokens=8)
    assert model.generate(**inputs, tgt_lang="fra", max_new_tokens=8) is not None
