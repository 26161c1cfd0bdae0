"""Calls of an engine, from any thread: each pulls, reads and submits its own requests, and delivers its own results."""

from __future__ import annotations

import copy
import gc
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from seamless_engine.core import Core, draft, failed
from seamless_engine.engine_thread import EngineThread, result_of
from seamless_engine.errors import CapacityError, EngineClosedError
from seamless_engine.handed_over import handed_over, runs_foreign_code
from seamless_engine.inputs.preprocess import Preprocessor, params_of
from seamless_engine.job import Job
from seamless_engine.readers import Readers, attempt
from seamless_engine.recovery import settled
from seamless_engine.request import DecodingParams, Request, Result
from seamless_engine.scheduler import SlowStart

_UNREAD = 8  # requests that were pulled and are not read yet, at most
T = TypeVar("T")
_Taken = Request | Exception
_Read = Job | Exception
_Ahead = deque[tuple[int, Result, Future[_Read]]]


class Calls:
    """Nothing of the model runs in a caller's thread, and a caller that does not wait holds up no other.

    reads_ahead: whether requests are read while the model works.
    """

    def __init__(self, loop: Core, preprocessor: Preprocessor, *, reads_ahead: bool) -> None:
        self.reads_ahead = reads_ahead
        self._open: Core | None = loop
        self._preprocessor = preprocessor
        self._options = preprocessor.options
        self._thread = EngineThread()
        self._readers = Readers()

    @property
    def loop(self) -> Core:
        """Raises EngineClosedError."""
        loop = self._open  # once: another thread may close
        if loop is None:
            raise _closed()
        return loop

    def check_process(self) -> None:
        """Raises UsageError in a forked child."""
        self._thread.check_process()

    def check(self) -> None:
        """Raises EngineClosedError, and UsageError in a forked child."""
        self.check_process()
        _ = self.loop

    def work(self, work: Callable[[], T]) -> T:
        """The result of `work`, which is done in the engine's thread. Raises UsageError if an AsyncEngine has that."""
        with self._called():
            return self._thread.call(work)

    def claim(self, make_owner: Callable[[], T]) -> T:
        """What takes the loop over, made between two steps."""
        self.check()
        return self._thread.call(make_owner)

    def close(self) -> None:
        """Free the loop, and the model with it. What is underway raises EngineClosedError."""
        if self._open is None:
            return
        self._thread.call(self._close)
        gc.collect()  # the parts of a model refer to one another
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def _close(self) -> None:
        if self._open is not None:
            self._open.check_owner()
            loop, self._open = self._open, None
            loop.fail(_closed())

    def run(
        self,
        source: Iterator[tuple[int, Request]],
        params: DecodingParams | None,
        start: SlowStart,
        *,
        together: bool,
    ) -> Iterator[tuple[int, Result]]:
        """Results with the positions of their requests, as they come; with `together`, when the last one is there."""
        ahead: _Ahead = deque()
        mine: dict[Job, int] = {}
        done: deque[Job] = deque()
        pulled = 0
        exhausted = False

        def pulls() -> bool:
            answered = pulled - len(mine) - len(ahead)
            return not exhausted and start.allows(pulled, answered) and self._pulls(ahead)

        def wakes() -> bool:
            finished = len(done) == len(mine) if together else True
            return bool(done and finished) or pulls() or self._submits(ahead)

        with self._called(), self._readers.one() as reader:
            try:
                while True:
                    while pulls():
                        following = next(source, None)
                        if following is None:
                            exhausted = True
                            break
                        pulled += 1
                        index, request = following
                        chosen = params_of(request, params)
                        result = draft(request, index)
                        started = time.perf_counter()
                        taken = self._take(request)
                        read = partial(self._read, taken, chosen, result, started, done)
                        ahead.append((index, result, reader.start(read)))
                    if self._submits(ahead):
                        index, result, reading = ahead.popleft()
                        job = result_of(reading)
                        error = job if isinstance(job, Exception) else self._submit(job, index, mine)
                        if error is not None:
                            yield index, failed(result, settled(error))
                    elif mine or ahead or not exhausted:
                        self._thread.drive(self.loop, wakes)
                        while done:
                            job = done.popleft()
                            if job.failure is not None:
                                raise job.failure
                            yield mine.pop(job), job.result
                    else:
                        return
            finally:
                for *_, reading in ahead:
                    reading.cancel()
                self._drop(list(mine))
                mine.clear()  # an exception's traceback holds this frame, and these would hold the exception
                done.clear()
                job = error = reading = None

    def stream_audio(self, request: Request, params: DecodingParams) -> Generator[np.ndarray, None, Result]:
        """As `Engine.stream_audio`, for a request that was checked."""
        self.check()
        started = time.perf_counter()
        return self._stream_audio(self._take(request), draft(request, 0), params, started)

    def _stream_audio(
        self, request: _Taken, result: Result, params: DecodingParams, started: float
    ) -> Generator[np.ndarray, None, Result]:
        with self._called():
            done = deque[Job]()
            job = result_of(self._readers.start(partial(self._read, request, params, result, started, done)))
            if isinstance(job, Exception):
                try:
                    raise job
                finally:
                    del job, request  # else the exception, its traceback and this frame hold one another
            job.streams = True
            try:
                self.loop.submit(job)
                self._thread.drive(self.loop, lambda: done)
            finally:
                self._drop([] if done else [job])
            done.clear()
            failure, job.failure = job.failure, None
            if failure is not None:
                try:
                    raise failure
                finally:
                    del failure
            if result.error is not None:
                raise copy.copy(result.error)  # without a cycle: its traceback holds this frame, which holds the result
            assert self.loop.runner.speech is not None
            pieces = self.loop.runner.speech.stream(job)
            while (samples := self._thread.call(partial(self._next_piece, pieces))) is not None:
                yield samples
            result.units = result.n_best[0].units
            result.timings["total"] = time.perf_counter() - job.started
            return result

    def _next_piece(self, pieces: Iterator[np.ndarray]) -> np.ndarray | None:
        """In the engine's thread."""
        self.loop.settle()  # others were served in between
        try:
            return next(pieces, None)
        except Exception as error:
            raise settled(error) from None

    def _take(self, request: Request) -> _Taken:
        """The request as the engine keeps it, or what its audio raised."""
        if runs_foreign_code(request):
            return result_of(self._readers.start(partial(attempt, partial(handed_over, request))))
        return handed_over(request)

    @contextmanager
    def _called(self) -> Iterator[None]:
        """A call is underway. Raises EngineClosedError, and UsageError if it may not be."""
        self.check()
        call, callers = object(), self.loop.callers  # and not the loop, which `close` frees though a call is suspended
        try:
            self.loop.enter(call)
            yield
        finally:
            callers.discard(call)

    def _read(
        self, request: _Taken, params: DecodingParams, result: Result, started: float, outbox: deque[Job]
    ) -> _Read:
        """In a reader's thread."""
        if isinstance(request, Exception):
            return request
        try:
            self._preprocessor.check(request, params)
            job = self._preprocessor.prepare(request, params, result)
        except Exception as error:
            return error
        job.count_from(started)
        job.outbox = outbox
        return job

    def _submit(self, job: Job, index: int, mine: dict[Job, int]) -> CapacityError | None:
        mine[job] = index  # first, so that it is dropped if a signal handler raises in between
        try:
            self.loop.submit(job)
        except CapacityError as error:  # and nothing else, which could be a signal handler's
            del mine[job]
            return error
        return None

    def _drop(self, jobs: list[Job]) -> None:
        def work() -> None:
            loop = self._open
            if loop is not None:
                for job in jobs:
                    loop.drop(job)

        if jobs:
            self._thread.clean_up(work)

    def _pulls(self, ahead: _Ahead) -> bool:
        """Whether to pull another request: for the loop, and to be read ahead, for one encoder pass after that."""
        loop = self._open  # once: another thread may close
        wanted = loop is None or loop.wants_more
        if not ahead:
            return wanted
        if not self.reads_ahead or (wanted and ahead[0][2].done()):
            return False
        # The caller may be interrupted while the engine's thread asks here, and cancels what is not read yet.
        read = [future.result() for *_, future in ahead if future.done() and not future.cancelled()]
        rows = sum(job.num_tokens for job in read if isinstance(job, Job))
        room = len(ahead) < self._options.max_num_seqs and len(ahead) - len(read) < _UNREAD
        return room and rows < self._options.max_encoder_tokens

    def _submits(self, ahead: _Ahead) -> bool:
        """Whether the next request goes to the loop. One that is not read yet is only waited for when nothing else can
        be done."""
        loop = self._open
        if not ahead or loop is None or not loop.wants_more:
            return False
        return not self.reads_ahead or ahead[0][2].done() or not loop.running


def _closed() -> EngineClosedError:
    return EngineClosedError("this engine was closed: load it again with Engine.from_pretrained")
