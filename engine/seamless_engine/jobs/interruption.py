"""Ctrl-C, and the signal that ends a process: the first asks a job to stop, the second stops it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """While it is entered, the first signal is noted; the second one does what it did before. In the main thread only:
    in another one, signals stay as they are.

    signal: the number of the one that came, or None. told: called with its name.
    """

    def __init__(self, told: Callable[[str], object]) -> None:
        self.signal: int | None = None
        self._told = told
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = number
            self._told(signal.Signals(number).name)
            return
        before = self._before[number]
        self._restore()
        if callable(before):
            before(number, frame)
        else:
            os.kill(os.getpid(), number)
