"""Seconds by stage: functions of a running program are watched, and what none of them takes is the rest."""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch


class StageClock:
    """On a GPU the device is idle before and after each watched call: stages add up, but do not overlap as they may.

    A stage inside another one is not counted in it. Outside of `of`, watched functions run as ever.
    """

    def __init__(self, device: str, rest: str) -> None:
        self.device = device
        self.rest = rest
        self._seconds: dict[str, float] = defaultdict(float)
        self._stages: list[str] = []
        self._since = 0.0

    def watch(self, owner: Any, name: str, stage: str) -> None:
        setattr(owner, name, self._timing(getattr(owner, name), stage))

    def proxy(self, target: Any, stage: str) -> Any:
        """`target` with its own call watched."""
        body = {"__call__": staticmethod(self._timing(target, stage)), "__getattr__": lambda _, n: getattr(target, n)}
        return type("Watched", (), body)()

    def of(self, call: Callable[[], Any]) -> tuple[dict[str, float], Any]:
        """Seconds of every stage, the rest and "all" of one call, and its result."""
        self._seconds.clear()
        self._enter(self.rest)
        try:
            result = call()
        finally:
            self._leave()
        return {**self._seconds, "all": sum(self._seconds.values())}, result

    def _timing(self, call: Callable[..., Any], stage: str) -> Callable[..., Any]:
        @functools.wraps(call)  # transformers looks at the signature of what it calls
        def run(*args: Any, **kwargs: Any) -> Any:
            if not self._stages:
                return call(*args, **kwargs)
            self._enter(stage)
            try:
                return call(*args, **kwargs)
            finally:
                self._leave()

        return run

    def _enter(self, stage: str) -> None:
        self._charge()
        self._stages.append(stage)

    def _leave(self) -> None:
        self._charge()
        self._stages.pop()

    def _charge(self) -> None:
        """The time since the last change is the innermost stage's."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._stages:
            self._seconds[self._stages[-1]] += now - self._since
        self._since = now
