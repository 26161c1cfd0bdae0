"""Threads that read the requests of an engine's callers: one for each call, which a later call takes over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

import torch

from seamless_engine.errors import AudioError
from seamless_engine.lane import Beside

T = TypeVar("T")
_IDLE = 4  # threads that are kept for later calls


def attempt(work: Callable[[], T]) -> T | Exception:
    """The result of `work`, or what it raised. For a reader's thread, whose errors are each of one request."""
    try:
        return work()
    except Exception as error:
        return error
    except BaseException as error:
        return AudioError(f"reading the audio file object raised {error!r}")


class Readers:
    """A file that blocks its reader holds up its own call alone. No call reads in its own thread: libsndfile calls
    Python back, and would swallow the exception of a signal handler there."""

    def __init__(self) -> None:
        self._idle: list[Beside] = []

    @contextmanager
    def one(self) -> Iterator[Beside]:
        """A thread for a call. What it was given and has not begun should be cancelled before the end."""
        reader = self._take()
        try:
            yield reader
        finally:
            reader.start(lambda: self._give_back(reader))  # once it is through

    def start(self, work: Callable[[], T]) -> Future[T]:
        reader = self._take()

        def run() -> T:
            try:
                return work()
            finally:
                self._give_back(reader)  # before the result is there, so that the next start finds it

        return reader.start(run)

    def _give_back(self, reader: Beside) -> None:
        if len(self._idle) < _IDLE:
            self._idle.append(reader)  # else it ends, because nothing refers to it

    def _take(self) -> Beside:
        try:
            return self._idle.pop()
        except IndexError:
            return Beside(torch.device("cpu"))
