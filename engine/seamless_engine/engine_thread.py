"""The thread that an engine's model runs in, whichever threads call the engine.

Callers wait for it. Python runs signal handlers in the main thread alone, so the exception of a handler ends a caller's
wait and never a pass. torch and NumPy keep autocast, inference mode, default device and error state by thread, so
the caller's do not reach the model. And torch starts one team of CPU threads, not one for every caller.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from seamless_engine.core import Core
from seamless_engine.errors import EngineClosedError, UsageError

T = TypeVar("T")
_NAP = 0.2  # seconds
_log = logging.getLogger(__name__)


class _Wait:
    """A caller that waits until the steps of a loop make `until` true. error: what evaluating that raised."""

    def __init__(self, loop: Core, until: Callable[[], object], future: Future[None]) -> None:
        self.loop = loop
        self.future = future
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
    """Runs what it is given, in order; in between it steps the loop as long as a caller waits for that."""

    def __init__(self) -> None:
        self._process = os.getpid()
        # Its put() may be interrupted by a finaliser that calls it, too.
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._waits: list[_Wait] = []
        # The target holds no reference to this object, so that the thread ends with it.
        self._thread = threading.Thread(
            target=_serve, args=(self._queue, self._waits), name="seamless-engine-model", daemon=True
        )
        self._thread.start()
        weakref.finalize(self, self._queue.put, None).atexit = False
        _THREADS.add(self)

    def check_process(self) -> None:
        """Raises UsageError in a forked child, which has neither this thread nor those of torch."""
        if os.getpid() != self._process:
            raise UsageError(
                f"this engine was loaded in process {self._process}; its threads do not exist in this forked child: "
                'load the engine in the child, or start processes with multiprocessing.get_context("spawn")'
            )

    def call(self, work: Callable[[], T]) -> T:
        """The result of `work`, done between two steps. If the wait is interrupted, it is done all the same."""
        self._check()
        future: Future[T] = Future()
        self._queue.put(partial(_fulfil, future, work))
        try:
            self._await(future)
            return future.result()
        finally:
            del future  # else an exception, its traceback and this frame hold one another

    def drive(self, loop: Core, until: Callable[[], object]) -> None:
        """Step the loop until `until` is true after a step, or the loop has nothing to do. Raises what `until` does."""
        self._check()
        future: Future[None] = Future()
        self._queue.put(partial(self._waits.append, _Wait(loop, until, future)))
        try:
            self._await(future)
            future.result()
        finally:
            future.cancel()  # an interrupted caller waits no more
            del future

    def clean_up(self, work: Callable[[], object]) -> None:
        """Have `work` done before any later `call`, without waiting for it.

        For `finally` blocks: a finaliser may run them in any thread, also in one that this thread waits for.
        """
        self._queue.put(partial(_clean_up, work))

    def stop(self) -> None:
        """End the thread after the step that is running."""
        if os.getpid() == self._process:
            self._queue.put(None)
            self._thread.join()

    def _await(self, future: Future[Any]) -> None:
        while not future.done():
            if not self._thread.is_alive() and not future.done():
                raise EngineClosedError("this engine has ended with its process")
            wait([future], timeout=_NAP)

    def _check(self) -> None:
        self.check_process()
        if threading.current_thread() is self._thread:
            raise UsageError("an engine cannot be called from its own thread, as a logging handler would: use another")


def result_of(future: Future[T]) -> T:
    """The future's result. A signal that comes just before a thread falls asleep does not wake it: look up at times."""
    try:
        while not future.done():
            wait([future], timeout=_NAP)
        return future.result()
    finally:
        del future  # else an exception, its traceback and this frame hold one another


_THREADS: weakref.WeakSet[EngineThread] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """A daemon that runs a kernel while Python ends can crash the process."""
    for thread in list(_THREADS):
        thread.stop()


def _fulfil(future: Future[T], work: Callable[[], T]) -> None:
    try:
        result = work()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
    finally:
        del future, work  # as in `call`


def _clean_up(work: Callable[[], object]) -> None:
    try:
        work()
    except BaseException as error:  # no caller waits for it
        _log.critical("what a call has left could not be tidied up", exc_info=error)


def _serve(queue: SimpleQueue[Callable[[], None] | None], waits: list[_Wait]) -> None:
    while True:
        while not waits or not queue.empty():
            work = queue.get()
            if work is None:
                return
            work()
            del work  # and what it holds, while there is nothing to do
            _wake(waits)
        if waits:
            _step(waits)


def _step(waits: list[_Wait]) -> None:
    loop = waits[0].loop
    idle = not loop.busy
    try:
        try:
            loop.step()
        except BaseException as error:
            loop.fail(error)
    except BaseException as error:  # the step left nothing that could be tidied up
        _wake(waits, all_waits=True, error=error)
    _wake(waits, all_waits=idle)


def _wake(waits: list[_Wait], all_waits: bool = False, error: BaseException | None = None) -> None:
    """Wake the callers that wait for what is so by now."""
    for due in [one for one in waits if all_waits or one.future.cancelled() or one.until()]:
        waits.remove(due)
        if not due.future.set_running_or_notify_cancel():
            continue  # its caller was interrupted
        failure = error or due.error
        if failure is None:
            due.future.set_result(None)
        else:
            due.future.set_exception(failure)
