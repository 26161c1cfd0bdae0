"""What the intake of a call holds while several threads change it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial

import pytest

from seamless_engine import Engine
from seamless_engine.core import draft
from seamless_engine.inputs.preprocess import params_of
from seamless_engine.intake import Handle
from support.callers import PATIENCE, beside, sentence


def handle(number: int) -> Handle:
    request = sentence(number)
    return Handle(request, params_of(request, None), draft(request, number))


def test_wants_more_reads_queues_that_no_other_thread_changes(engine: Engine) -> None:
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
    assert intake.wants_more(engine.core, True)
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
