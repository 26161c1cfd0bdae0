"""Requests, threads that call an engine, and what an engine may hold afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, TypeVar

import numpy as np

from seamless_engine import DecodingParams, Engine, Request, Result
from support.audio import clip
from support.parity import TEXTS

T = TypeVar("T")
PATIENCE = 120  # seconds until a test that hangs fails


def assert_free(engine: Engine) -> None:
    engine.thread.call(lambda: None)  # first drops what ended calls have left
    blocks = engine.core.runner.blocks
    blocks.check_integrity()
    assert (blocks.free_blocks, blocks.free_seqs) == (blocks.num_blocks, blocks.num_seqs)
    assert not engine.core.busy and not engine.thread.calls and not engine.thread.claimed


def sentence(number: int, task: str = "t2tt", length: int = 6, beams: int = 1) -> Request:
    params = DecodingParams(max_new_tokens=length, num_beams=beams)
    return Request(task, "fra", text=TEXTS[number % len(TEXTS)], src_lang="eng", params=params)


def heard(seed: int, task: str = "asr") -> Request:
    return Request(task, "fra", audio=clip(seed), sampling_rate=16_000, params=DecodingParams(max_new_tokens=6))


def mixture(seed: int) -> list[Request]:
    return [
        sentence(seed),
        sentence(seed + 1, "t2st", beams=3),
        heard(seed),
        heard(seed + 1, "s2st"),
        sentence(seed + 2),
    ]


def drain(pieces: Generator[np.ndarray, None, Result]) -> Result:
    """The result of `stream_audio`, with its audio."""
    found = []
    while True:
        try:
            found.append(next(pieces))
        except StopIteration as end:
            end.value.audio = np.concatenate(found)
            return end.value


def beside(work: Callable[..., T], *arguments: Any) -> Future[T]:
    """`work` in a thread of its own."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
