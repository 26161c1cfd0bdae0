"""Time: of a call, of many calls of one operation, and by stage of a program that runs."""

from __future__ import annotations

import functools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

_FLUSH_BYTES = 512 << 20  # written before every timed call on a GPU: more than ten times an H100's L2 cache
_SECONDS = {"cuda": 0.15, "cpu": 0.5}  # of timed calls
_FEWEST, _MOST = 5, 200  # timed calls


def synchronize(device: str) -> None:
    """Wait until a GPU has done all its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(call: Callable[[], Any], device: str) -> float:
    """Seconds of one call, the device idle before and after."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def median_seconds(call: Callable[[int], Any], device: torch.device) -> float:
    """Median time of `call(i)`, i the number of the call, after two that warm up.

    On a GPU by events, each call after a flush of the L2 cache, which also gives the host the time to run ahead.
    """
    call(0)
    once = max(seconds_of(lambda: call(1), device.type), 1e-7)
    count = min(max(_FEWEST, int(_SECONDS[device.type] / once)), _MOST)
    if device.type == "cpu":
        return statistics.median(seconds_of(lambda i=i: call(i), "cpu") for i in range(count))
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device=device)
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
    for i, (start, end) in enumerate(events):
        flush.zero_()
        start.record()
        call(i)
        end.record()
    synchronize("cuda")
    return statistics.median(start.elapsed_time(end) for start, end in events) / 1e3


class StageClock:
    """Seconds by stage: watched functions are timed while `of` runs, and the stage `rest` takes what is left.

    On a GPU the device is idle before and after each watched call: stages add up, and do not overlap. Of two watched
    calls one inside the other, time counts for the inner one alone.
    """

    def __init__(self, device: str, rest: str) -> None:
        self.device, self.rest = device, rest
        self._seconds: dict[str, float] = defaultdict(float)
        self._stages: list[str] = []
        self._since = 0.0

    def watch(self, owner: Any, name: str, stage: str) -> None:
        """Count calls of `owner.name` for a stage. owner: an object, a class or a module."""
        call = getattr(owner, name)

        @functools.wraps(call)  # transformers looks at the signature of what it calls
        def run(*args: Any, **kwargs: Any) -> Any:
            made = functools.partial(call, *args, **kwargs)
            return self._in_stage(stage, made) if self._stages else made()

        setattr(owner, name, run)

    def of(self, call: Callable[[], Any]) -> tuple[dict[str, float], Any]:
        """Seconds of every stage of one call, and its result."""
        self._seconds.clear()
        result = self._in_stage(self.rest, call)
        return dict(self._seconds), result

    def _in_stage(self, stage: str, call: Callable[[], Any]) -> Any:
        self._charge()
        self._stages.append(stage)
        try:
            return call()
        finally:
            self._charge()
            self._stages.pop()

    def _charge(self) -> None:
        """Add the time since the last change to the innermost stage."""
        synchronize(self.device)
        now = time.perf_counter()
        if self._stages:
            self._seconds[self._stages[-1]] += now - self._since
        self._since = now
