"""Work in a thread of its own, where no signal handler can raise, and waiting for it in a thread where one can."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar, cast

from seamless_engine.errors import AudioError, EngineClosedError

T = TypeVar("T")
_NAP = 0.2  # seconds


class Outcome(Generic[T]):
    """What work in another thread returns or raises: given there, and taken once with `result_of`.

    The exception of a signal handler can leave the lock of a Future or an Event taken in the thread that waits, and the
    thread that sets it then waits for that lock for ever. Here both sides make single calls of C.
    """

    def __init__(self) -> None:
        self.box: SimpleQueue[tuple[T, BaseException | None]] = SimpleQueue()

    def give(self, result: T, error: BaseException | None = None) -> None:
        self.box.put((result, error))


def beside(work: Callable[[], T]) -> Outcome[T]:
    """The outcome of `work`, which a thread does that does not keep the process."""
    outcome: Outcome[T] = Outcome()
    threading.Thread(target=fulfil, args=(outcome, work), name="seamless-engine-reader", daemon=True).start()
    return outcome


def fulfil(outcome: Outcome[T], work: Callable[[], T]) -> None:
    """Give the outcome what `work` returns or raises."""
    try:
        outcome.give(work())
    except BaseException as error:
        outcome.give(cast(T, None), error)
    finally:
        del outcome, work  # else an exception, its traceback and this frame hold one another


def result_of(outcome: Outcome[T], ended: threading.Event | None = None) -> T:
    """The result that the outcome is given. Raises EngineClosedError if the worker has `ended` without giving one.

    A signal that comes just before a thread falls asleep does not wake it, so this one looks at times.
    """
    error = None
    try:
        while True:
            over = ended is not None and ended.is_set()  # before the look into the box, which is filled before that
            try:
                result, error = outcome.box.get(timeout=0 if over else _NAP)
                break
            except Empty:
                if over:
                    raise EngineClosedError("this engine has ended with its process") from None
        if error is not None:
            raise error
        return result
    finally:
        del outcome, error  # as in `fulfil`


def attempt(work: Callable[[], T]) -> T | Exception:
    """The result of `work`, or what it raised. For a reader's thread, whose errors are each of one request."""
    try:
        return work()
    except Exception as error:
        return error
    except BaseException as error:
        return AudioError(f"reading the audio file object raised {error!r}")
