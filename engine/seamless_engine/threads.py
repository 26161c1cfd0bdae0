"""Work in a thread of its own, where no signal handler can raise, and waiting for it in a thread where one can."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from seamless_engine.errors import AudioError, EngineClosedError

T = TypeVar("T")
_NAP = 0.2  # seconds


def beside(work: Callable[[], T]) -> Future[T]:
    """The future result of `work`, which a thread does that does not keep the process."""
    future: Future[T] = Future()
    threading.Thread(target=fulfil, args=(future, work), name="seamless-engine-reader", daemon=True).start()
    return future


def fulfil(future: Future[T], work: Callable[[], T]) -> None:
    """Give the future the result of `work`, or what it raised."""
    try:
        result = work()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
    finally:
        del future, work  # else an exception, its traceback and this frame hold one another


def result_of(future: Future[T], worker: threading.Thread | None = None) -> T:
    """The future's result. Raises EngineClosedError if the worker ended without giving one.

    A signal that comes just before a thread falls asleep does not wake it, so this one looks at times.
    """
    try:
        while not future.done():
            if worker is not None and not worker.is_alive() and not future.done():
                raise EngineClosedError("this engine has ended with its process")
            wait([future], timeout=_NAP)
        return future.result()
    finally:
        del future  # as in `fulfil`


def attempt(work: Callable[[], T]) -> T | Exception:
    """The result of `work`, or what it raised. For a reader's thread, whose errors are each of one request."""
    try:
        return work()
    except Exception as error:
        return error
    except BaseException as error:
        return AudioError(f"reading the audio file object raised {error!r}")
