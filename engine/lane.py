"""Where encoder and speech passes run: in turn with the decode steps, or beside them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

import torch

T = TypeVar("T")


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
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="seamless-engine-passes")

    def start(self, run: Callable[[], T]) -> Future[T]:
        stream = self._stream
        if stream is None:
            return self._thread.submit(run)
        launched = torch.cuda.Event()
        launched.record(torch.cuda.current_stream(self._device))

        def on_stream() -> T:
            with torch.cuda.stream(stream):  # and its device
                stream.wait_event(launched)
                try:
                    return run()
                finally:
                    stream.synchronize()

        return self._thread.submit(on_stream)
