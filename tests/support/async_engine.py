"""An AsyncEngine under test: its loop and its readers can be held up, and what it holds is looked at."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from seamless_engine import AsyncEngine, DecodingParams, Engine, Request, Result
from seamless_engine.job import Job
from support.callers import PATIENCE
from support.parity import TEXTS

Checkpoint = Callable[[int], Path]
T = TypeVar("T")

SHORT = DecodingParams(max_new_tokens=3)
LONG = DecodingParams(max_new_tokens=24, min_new_tokens=24, num_beams=2)  # 24 steps of two beams


def run(main: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(main, PATIENCE))


def sentence(number: int, params: DecodingParams = SHORT, **fields: Any) -> Request:
    return Request("t2tt", "fra", text=TEXTS[number % len(TEXTS)], src_lang="eng", params=params, **fields)


async def answered(engine: AsyncEngine, request: Request) -> Result:
    return await (await engine.submit(request))


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


class Steps:
    """Counts the steps of an engine's loop, and stops before chosen ones until `go`."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.before: Callable[[int], object] = lambda step: None
        self.after: Callable[[int], object] = lambda step: None
        self._step = engine.core.step
        self._stops: set[int] = set()
        self._stopped, self._go = threading.Event(), threading.Event()
        monkeypatch.setattr(engine.core, "step", self._one)

    def _one(self) -> None:
        self.before(self.count)
        if self.count in self._stops:
            self._stopped.set()
            assert self._go.wait(PATIENCE)
            self._go.clear()
        self._step()
        self.after(self.count)
        self.count += 1

    def stop_before(self, step: int) -> None:
        self._stops.add(step)

    async def stopped(self) -> None:
        await asyncio.to_thread(self._stopped.wait, PATIENCE)
        self._stopped.clear()

    def go(self) -> None:
        self._go.set()


class Reading:
    """Holds readers up while they prepare a request, until `go`; lists what they were given."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[Request] = []
        self._go = threading.Event()
        prepare = engine.preprocessor.prepare

        def held_up(request: Request, *others: Any) -> list[Job]:
            self.begun.append(request)
            assert self._go.wait(PATIENCE)
            return prepare(request, *others)

        monkeypatch.setattr(engine.preprocessor, "prepare", held_up)

    def go(self) -> None:
        self._go.set()
