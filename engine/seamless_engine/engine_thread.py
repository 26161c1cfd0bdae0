"""The thread that an engine's model runs in, whichever threads call the engine.

Callers wait for it. Python runs signal handlers in the main thread alone, so the exception of a handler ends a caller's
wait and never a pass. torch and NumPy keep autocast, inference mode, default device and error state by thread, so
the caller's do not reach the model. And torch starts one team of CPU threads, not one for every caller.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import torch

from seamless_engine.core import Core
from seamless_engine.errors import EngineClosedError, UsageError
from seamless_engine.intake import Intake
from seamless_engine.threads import Outcome, fulfil, result_of

T = TypeVar("T")
_log = logging.getLogger(__name__)
_Work = Callable[[], object]


class _Wait:
    """An intake whose requests are to be answered until `until` is true. error: what evaluating that raised.

    finish: takes None, or an error, when the wait is over. abandoned: the caller was interrupted.
    fills: whether steps wait for what the intake is reading, as long as the core has room for it.
    """

    def __init__(
        self,
        core: Core,
        intake: Intake,
        until: Callable[[], object],
        finish: Callable[[BaseException | None], object],
        fills: Callable[[_Wait], bool],
    ) -> None:
        self.core = core
        self.intake = intake
        self.finish = finish
        self.fills = fills
        self.abandoned = False
        self.error: BaseException | None = None
        self._until = until

    def until(self) -> bool:
        """Also true if evaluating it raises, which ends the wait of this caller and not the engine's thread."""
        try:
            return bool(self._until())
        except BaseException as error:
            self.error = error
            return True


class EngineThread:
    """Runs what it is given, in order; in between it steps the core as long as a caller waits for that.

    reads_ahead: whether requests are read while the model works.
    calls: the calls of an Engine that are underway, those that are suspended included.
    """

    def __init__(self, core: Core, *, reads_ahead: bool) -> None:
        self.reads_ahead = reads_ahead
        self.calls: set[object] = set()
        self._open: Core | None = core
        self._claimed: Intake | None = None  # of an AsyncEngine
        self._process = os.getpid()
        # Its put() may be interrupted by a finaliser that calls it, too.
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        self._ended = threading.Event()  # and not is_alive(), which an exception of a signal handler can corrupt
        waits: list[_Wait] = []
        # The target holds no reference to this object, so that the thread ends with it.
        self._thread = threading.Thread(
            target=_run, args=(self._queue, waits, self._ended), name="seamless-engine-model", daemon=True
        )
        self._waits = waits
        self._thread.start()
        weakref.finalize(self, self._queue.put, None).atexit = False
        _THREADS.add(self)

    @property
    def core(self) -> Core:
        """Raises EngineClosedError."""
        core = self._open  # once: another thread may close
        if core is None:
            raise _closed()
        return core

    @property
    def claimed(self) -> bool:
        """Whether an AsyncEngine has the engine."""
        return self._claimed is not None

    def check_process(self) -> None:
        """Raises UsageError in a forked child, which has neither this thread nor those of torch."""
        if os.getpid() != self._process:
            raise UsageError(
                f"this engine was loaded in process {self._process}; its threads do not exist in this forked child: "
                'load the engine in the child, or start processes with multiprocessing.get_context("spawn")'
            )

    def check(self) -> None:
        """Raises EngineClosedError, and UsageError in a forked child."""
        self.check_process()
        _ = self.core

    @contextmanager
    def called(self) -> Iterator[None]:
        """A call is underway. Raises EngineClosedError, and UsageError if an AsyncEngine has the engine."""
        self.check()
        call = object()
        try:
            self.calls.add(call)  # before the look at the claim: `claim` does it the other way round
            self._check_unclaimed()
            yield
        finally:
            self.calls.discard(call)

    def intake(self, **options: Any) -> Intake:
        """Of a call; see `Intake`."""
        return Intake(self.core.preprocessor, partial(self._queue.put, _nothing), **options)

    def claim(self, **options: Any) -> tuple[Intake, Future[None]]:
        """The intake of an AsyncEngine, which is served until it is drained; then the future is done.

        Raises UsageError if the engine is in use, EngineClosedError.
        """
        self.check()
        intake = self.intake(**options)
        try:
            return self.call(partial(self._claim, intake))
        except BaseException:
            self.post(partial(intake.close, True))  # if the caller was interrupted, the engine is claimed all the same
            raise

    def _claim(self, intake: Intake) -> tuple[Intake, Future[None]]:
        core = self.core
        if self._claimed is None:
            self._claimed = intake  # before the look at the calls: `called` does it the other way round
            if self.calls or core.busy:
                self._claimed = None
        if self._claimed is not intake:
            raise UsageError("this engine is in use: close its AsyncEngine, and the streams that it has begun, first")
        ended: Future[None] = Future()

        def release(_: BaseException | None) -> None:
            _do(partial(intake.end, core))
            self._claimed = None
            ended.set_result(None)

        self._waits.append(_Wait(core, intake, lambda: intake.drained, release, lambda _: False))
        return intake, ended

    def call(self, work: Callable[[], T]) -> T:
        """The result of `work`, done between two steps. If the wait is interrupted, it is done all the same."""
        self._check()
        outcome: Outcome[T] = Outcome()
        self._queue.put(partial(fulfil, outcome, work))
        return self.result_of(outcome)

    def end(self, intake: Intake) -> None:
        """Drop what a call's intake still holds. For the engine's thread."""
        intake.failure = None  # if the call raised it, its traceback holds the call's frame and that this intake
        intake.end(self._open)

    def post(self, work: _Work) -> None:
        """Have `work` done before any later `call`, without waiting for it.

        Also for `finally` blocks: a finaliser may run them in any thread, also in one that this thread waits for.
        """
        self._queue.put(partial(_do, work))

    def serve(self, intake: Intake, until: Callable[[], object]) -> None:
        """Answer the requests of an intake until `until` is true, between two steps. Raises what `until` does."""
        self._check()
        outcome: Outcome[None] = Outcome()
        wait = _Wait(self.core, intake, until, partial(outcome.give, None), self._fills)
        try:
            self._queue.put(partial(self._waits.append, wait))
            self.result_of(outcome)
        finally:
            wait.abandoned = True  # an interrupted caller waits no more
            del wait  # else an exception, its traceback and this frame hold one another

    def result_of(self, outcome: Outcome[T]) -> T:
        """As `threads.result_of`, for what the engine's thread is to give."""
        return result_of(outcome, self._ended)

    def _fills(self, wait: _Wait) -> bool:
        if wait.core.preprocessor.options.decode_processes:
            return False  # one of the files may hang
        reading = wait.intake.unread > 0 and wait.core.wants_more
        return reading and not (self.reads_ahead and wait.core.running)

    def close(self) -> None:
        """Free the core, and the model with it. What is underway raises EngineClosedError; a second close does nothing.

        Raises UsageError while an AsyncEngine has the engine.
        """
        if self._open is None:
            return
        self.call(self._close)
        gc.collect()  # the parts of a model refer to one another
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def _close(self) -> None:
        if self._open is not None:
            self._check_unclaimed()
            core, self._open = self._open, None
            core.fail(_closed())
            for one in self._waits:
                one.intake.fail(_closed())

    def stop(self) -> None:
        """End the thread after the step that is running, and an AsyncEngine with it."""
        if os.getpid() == self._process:
            self.post(self._leave)
            self._queue.put(None)
            self._thread.join()

    def _leave(self) -> None:
        if self._claimed is not None:
            self._claimed.fail(EngineClosedError("this engine has ended with its process"))

    def _check_unclaimed(self) -> None:
        if self.claimed:
            raise UsageError("this engine belongs to an AsyncEngine: give that the request, or close it first")

    def _check(self) -> None:
        self.check_process()
        if threading.current_thread() is self._thread:
            raise UsageError("an engine cannot be called from its own thread, as a logging handler would: use another")


_THREADS: weakref.WeakSet[EngineThread] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """A daemon that runs a kernel while Python ends can crash the process."""
    for thread in list(_THREADS):
        thread.stop()


def _closed() -> EngineClosedError:
    return EngineClosedError("this engine was closed: load it again with Engine.from_pretrained")


def _nothing() -> None:
    """Makes the thread look at its intakes."""


def _do(work: _Work) -> None:
    try:
        work()
    except BaseException as error:  # no caller waits for it
        _log.critical("what a call has left could not be tidied up", exc_info=error)


def _run(queue: SimpleQueue[_Work | None], waits: list[_Wait], ended: threading.Event) -> None:
    try:
        _serve(queue, waits)
    finally:
        ended.set()


def _serve(queue: SimpleQueue[_Work | None], waits: list[_Wait]) -> None:
    deadline = None  # when a request is late outside of the core
    while True:
        idle = not any(one.core.busy and not one.fills(one) for one in waits)
        patience = max(deadline - time.perf_counter(), 0.0) if deadline is not None else None
        try:
            work = queue.get(block=idle, timeout=patience)
            if work is None:
                _wake(waits)
                return
            work()
            del work  # and what it holds, while there is nothing to do
            if not queue.empty():
                continue  # the intakes are looked at once for all that has happened
        except Empty:
            if not idle:
                _step(waits)
        deadline = _wake(waits)


def _step(waits: list[_Wait]) -> None:
    core = waits[0].core
    try:
        try:
            core.step()
        except BaseException as error:
            core.fail(error)
    except BaseException as error:  # the step left nothing that could be tidied up
        for one in waits:
            one.intake.fail(error)
        _wake(waits, error)


def _wake(waits: list[_Wait], error: BaseException | None = None) -> float | None:
    """Hand requests and results over, and wake the callers that wait for what is so by now.

    Returns when the next request will be late outside of the core.
    """
    deadlines = []
    for one in waits:
        one.intake.deliver()
        deadlines.append(one.intake.expire(time.perf_counter()))
        one.intake.feed(one.core)
    for due in [one for one in waits if error or one.abandoned or one.until()]:
        waits.remove(due)
        due.finish(error or due.error)
    return min((when for when in deadlines if when is not None), default=None)
