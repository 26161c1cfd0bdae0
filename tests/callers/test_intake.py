"""What the intake of a call holds while several threads change it, and what becomes of it when a thread is missing."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest

from seamless_engine import AsyncEngine, Engine, EngineClosedError
from seamless_engine.core import draft
from seamless_engine.inputs.preprocess import params_of
from seamless_engine.intake import Handle
from support.async_engine import run
from support.callers import PATIENCE, beside, heard, sentence


def handle(number: int) -> Handle:
    request = sentence(number)
    return Handle(request, params_of(request, None), draft(request, number))


def test_room_reads_queues_that_no_other_thread_changes(engine: Engine) -> None:
    intake, other = engine.thread.intake(readers=1), []

    class Queue(deque[Handle]):
        def __iter__(self) -> Iterator[Handle]:
            if not other:
                other.append(beside(intake.close, False))
                with pytest.raises(TimeoutError):
                    other[0].result(0.05)
            return super().__iter__()

    first = handle(0)
    intake.submit(first)
    deadline = time.monotonic() + PATIENCE
    while not intake.ready:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    first.place = intake.ready = Queue(intake.ready)
    assert intake.room(engine.core, True)
    other[0].result(PATIENCE)
    assert first.result(0).finish_reason == "cancelled"
    engine.thread.call(partial(engine.thread.end, intake))


def test_drained_counts_a_request_that_leaves_the_backlog(engine: Engine) -> None:
    intake = engine.thread.intake(readers=1, max_in_flight=1)
    seen: list[Future[bool]] = []

    class Queue(deque[Handle]):
        def popleft(self) -> Handle:
            left = super().popleft()
            seen.append(beside(lambda: intake.drained))
            time.sleep(0.05)
            return left

    intake.backlog = Queue()
    handles = [handle(i) for i in range(2)]
    for one in handles:
        intake.submit(one)
    intake.close(drain=True)
    handles[0].cancel()
    assert [one.result(PATIENCE) for one in seen] == [False, False]
    engine.thread.call(partial(engine.thread.end, intake))


@pytest.fixture
def no_reader_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def starts(thread: threading.Thread) -> None:
        if thread.name == "seamless-engine-reader":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starts)


@pytest.mark.parametrize(
    "call",
    [
        lambda engine: engine.generate(sentence(0)),
        lambda engine: engine.generate(heard(0)),
        lambda engine: list(engine.stream([heard(0), sentence(0)])),
        lambda engine: list(engine.stream_audio(sentence(0, "t2st"))),
    ],
    ids=["text", "audio", "stream", "stream_audio"],
)
def test_a_call_raises_that_its_reader_cannot_start(
    engine: Engine, no_reader_starts: None, call: Callable[[Engine], Any]
) -> None:
    with pytest.raises(RuntimeError, match="can't start new thread"):
        beside(call, engine).result(PATIENCE)


def test_an_async_engine_without_a_reader_fails(engine: Engine, no_reader_starts: None) -> None:
    async def main() -> None:
        shared = AsyncEngine(engine, readers=1)
        for _ in range(2):
            with pytest.raises(EngineClosedError, match="can't start new thread"):
                await (await shared.submit(sentence(0)))
        await shared.close()

    run(main())
