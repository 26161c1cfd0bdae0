"""Where encoder and speech passes run: in turn with the decode steps, or beside them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import Protocol, TypeVar

import torch

from seamless_engine.device import on as on

T = TypeVar("T")
_Work = Callable[[], None]


class Lane(Protocol):
    def start(self, run: Callable[[], T]) -> Future[T]:
        """`run`, after all that the caller's thread has launched. Its result is there when the device has made it."""
        ...


class InTurn:
    """`run` is done when `start` returns, as far as the host knows: decode steps come after it on the same stream."""

    def start(self, run: Callable[[], T]) -> Future[T]:
        done: Future[T] = Future()
        done.set_result(run())
        return done


class Beside:
    """One `run` at a time, by a thread and on a GPU a stream of its own.

    torch's allocator keeps the memory of streams apart: what a pass allocates nobody else uses. What it reads of others
    (states of a hypothesis) must stay referenced until its result is there.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        # A daemon, unlike an executor's thread: one that reads a pipe must not keep the process, and an engine that is
        # closed at exit may still need one that runs passes.
        threading.Thread(target=_serve, args=(self._queue,), name="seamless-engine-passes", daemon=True).start()
        weakref.finalize(self, self._queue.put, None).atexit = False

    def start(self, run: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        work = run
        if self._stream is not None:
            launched = torch.cuda.Event()
            launched.record(torch.cuda.current_stream(self._device))
            work = partial(_on, self._stream, launched, run)
        self._queue.put(partial(_fulfil, future, work))
        return future


def _fulfil(future: Future[T], work: Callable[[], T]) -> None:
    try:
        if future.set_running_or_notify_cancel():
            future.set_result(work())
    except BaseException as error:
        future.set_exception(error)
    finally:
        del future, work  # else an exception, its traceback and this frame hold one another


def _serve(queue: SimpleQueue[_Work | None]) -> None:
    for work in iter(queue.get, None):
        work()
        del work  # and the tensors that it holds, while there is nothing to do


def _on(stream: torch.cuda.Stream, launched: torch.cuda.Event, run: Callable[[], T]) -> T:
    with torch.cuda.stream(stream):  # and its device
        stream.wait_event(launched)
        try:
            return run()
        finally:
            stream.synchronize()
