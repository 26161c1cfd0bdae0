"""What a call of an Engine does: it pulls requests, has the engine's thread answer them, and yields results."""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from seamless_engine.core import draft
from seamless_engine.engine_thread import EngineThread
from seamless_engine.handed_over import runs_foreign_code
from seamless_engine.inputs.preprocess import params_of
from seamless_engine.intake import Handle, Intake
from seamless_engine.recovery import request_error
from seamless_engine.request import DecodingParams, Request, Result
from seamless_engine.scheduler import SlowStart
from seamless_engine.threads import Outcome

_END: Any = object()


def run(
    thread: EngineThread, requests: Iterator[Request], params: DecodingParams | None, start: SlowStart, *, batch: bool
) -> Iterator[tuple[int, Result]]:
    """Results with the positions of their requests, in order of completion.

    batch: results come when the last one is there.
    The caller's thread pulls from `requests`. A request is copied before the next one is pulled.
    """
    in_flight: dict[Future[Result], int] = {}
    finished: deque[Future[Result]] = deque()
    pulled = 0
    exhausted = False

    def may_pull() -> bool:
        return not exhausted and start.allows(pulled, pulled - len(in_flight))

    def room() -> int:
        return intake.room(thread.core, thread.reads_ahead) if may_pull() else 0

    def may_yield() -> bool:
        return len(finished) == len(in_flight) > 0 if batch else bool(finished)

    with _intake(thread) as intake:
        try:
            while in_flight or not exhausted:
                if in_flight or not room():  # else what `room` counts is up to date
                    thread.serve(intake, lambda: may_yield() or room())
                while may_yield():
                    handle = finished.popleft()
                    yield in_flight.pop(handle), handle.result()
                for _ in range(room()):
                    if not may_pull():
                        break
                    request = next(requests, _END)
                    if request is _END:
                        exhausted = True
                        break
                    index, pulled = pulled, pulled + 1
                    handle = Handle(request, params_of(request, params), draft(request, index))
                    in_flight[handle] = index
                    handle.add_done_callback(finished.append)
                    _submit(thread, intake, handle)
        finally:
            in_flight.clear()  # an exception's traceback holds this frame, and these would hold the exception
            finished.clear()
            handle = None


def stream_audio(thread: EngineThread, request: Request, params: DecodingParams) -> Generator[np.ndarray, None, Result]:
    """As `Engine.stream_audio`, for a request that was checked. The request is copied when this returns."""
    pieces = _pieces(thread, request, params)
    next(pieces)
    return pieces


def _pieces(thread: EngineThread, request: Request, params: DecodingParams) -> Generator[np.ndarray, None, Result]:
    """The first piece is empty: the request has been copied."""
    with _intake(thread) as intake:
        handle = Handle(request, params, draft(request, 0), streams=True)
        try:
            _submit(thread, intake, handle)
            yield np.zeros(0, dtype=np.float32)
            thread.serve(intake, handle.done)
            result, jobs = handle.result(), handle.jobs
        finally:
            del handle, request
        if result.error is not None:
            raise copy.copy(result.error)  # its traceback holds this frame, which holds the result
        assert jobs is not None and thread.core.runner.synthesizer is not None
        job = jobs[0]
        pieces = thread.core.runner.synthesizer.stream(job)
        while (samples := thread.call(partial(next_piece, pieces))) is not None:
            yield samples
            thread.check()
        result.units = result.n_best[0].units
        result.timings["total"] = time.perf_counter() - job.started
        return result


def next_piece(pieces: Iterator[np.ndarray]) -> np.ndarray | None:
    """The next samples of a speech, None after the last. For the engine's thread."""
    try:
        return next(pieces, None)
    except Exception as error:
        raise request_error(error) from None


@contextmanager
def _intake(thread: EngineThread) -> Iterator[Intake]:
    with thread.called():
        # One reads requests in order; processes that decode are each asked by one.
        intake = thread.intake(readers=max(thread.core.preprocessor.options.decode_processes, 1))
        try:
            yield intake
        finally:
            thread.post(partial(thread.end, intake))


def _submit(thread: EngineThread, intake: Intake, handle: Handle) -> None:
    """In the engine's thread, so that no signal handler of the caller's comes in between."""
    taken: Outcome[None] = Outcome()
    handle.taken.add_done_callback(lambda _: taken.give(None))

    def submit() -> None:
        try:
            intake.submit(handle)
        except BaseException as error:  # what has ended the intake: the caller raises it
            handle.set_exception(error.with_traceback(None))
            handle.taken.set_result(None)

    thread.post(submit)
    if runs_foreign_code(handle.request):
        thread.result_of(taken)
