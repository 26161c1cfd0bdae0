"""An engine that decodes in processes: the same results, whatever calls it, and no process is left."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from seamless_engine import AsyncEngine, AudioError, DecodingParams, Engine, EngineClosedError, EngineConfig, Request
from support.async_engine import run
from support.audio import clip
from support.callers import PATIENCE, beside
from support.files import encoded
from support.parity import same
from support.processes import wait_for_end, workers

Checkpoint = Callable[[int], Path]
SHORT = DecodingParams(max_new_tokens=3)


def load(folder: Path) -> Engine:
    options = EngineConfig(decode_processes=2, decode_timeout=PATIENCE)
    return Engine.from_pretrained(folder, device="cpu", options=options)


@pytest.fixture
def engine(checkpoint: Checkpoint) -> Engine:
    return load(checkpoint(0))


@pytest.fixture
def requests(tmp_path: Path) -> list[Request]:
    """Files of several rates and lengths, some of them no audio, and an array, a text and what holds a file."""
    audio: list[object] = []
    for number in range(40):
        path = tmp_path / f"{number}.wav"
        rate = (8_000, 16_000, 44_100)[number % 3]
        content = encoded(np.stack([clip(number, 0.3)] * 2, axis=1), rate)
        path.write_bytes(b"no audio" if number % 10 == 3 else content)
        audio += [path, content] if number % 2 else [str(path)]
    audio += [tmp_path / "missing.wav", {"bytes": encoded(clip(1)), "path": None}]
    return [
        Request("t2tt", "fra", text="how far is it", src_lang="eng", params=SHORT),
        Request("asr", "fra", audio=clip(9), sampling_rate=16_000, params=SHORT),
        *(Request("asr", "fra", audio=one, params=SHORT) for one in audio),
    ]


def test_processes_that_decode_change_no_result(
    checkpoint: Checkpoint, engine: Engine, requests: list[Request]
) -> None:
    before = workers(os.getpid())
    with Engine.from_pretrained(checkpoint(0), device="cpu") as in_thread:
        expected = in_thread.generate(requests)
    assert sum(isinstance(result.error, AudioError) for result in expected) == 5

    def compare(results: list) -> None:
        assert len(results) == len(expected)
        for one, other in zip(results, expected, strict=True):
            assert repr(one.error) == repr(other.error) and one.warnings == other.warnings
            assert one.error is not None or same(one, other)

    async def answers() -> list:
        async with AsyncEngine(engine) as shared:
            return await shared.generate(requests)

    with ThreadPoolExecutor(3) as threads:
        for results in threads.map(engine.generate, [requests] * 3):
            compare(results)
    compare(sorted(engine.stream(requests), key=lambda result: result.id))
    compare(run(answers()))
    assert 1 <= len(workers(os.getpid()) - before) <= 2


def test_a_killed_process_costs_a_request_and_no_other(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    path.write_bytes(encoded(clip(0)))
    request = Request("asr", "fra", audio=path, params=SHORT)
    before = workers(os.getpid())
    expected = engine.generate(request)
    (process,) = workers(os.getpid()) - before
    os.kill(process, signal.SIGSTOP)
    call = beside(engine.generate, [request])
    os.kill(process, signal.SIGKILL)
    wait_for_end(process)
    (found,) = call.result(PATIENCE)
    # The process ended before the request came to it, or after.
    assert same(found, expected) or "was ended by SIGKILL" in str(found.error)
    assert all(same(result, expected) for result in engine.generate([request] * 3))


def test_a_file_that_hangs_keeps_no_other_waiting(engine: Engine) -> None:
    before = workers(os.getpid())
    requests = [Request("asr", "fra", audio=encoded(clip(number)), params=SHORT) for number in range(12)]
    engine.generate(requests[0])
    (process,) = workers(os.getpid()) - before
    os.kill(process, signal.SIGSTOP)  # the first request is its
    results = engine.stream(requests)
    assert {next(results).id for _ in requests[1:]} == set(range(1, 12))
    os.kill(process, signal.SIGKILL)
    assert "was ended by SIGKILL" in str(next(results).error)
    results.close()


def test_close_ends_the_processes_and_what_they_decode(checkpoint: Checkpoint) -> None:
    before = workers(os.getpid())
    closed = load(checkpoint(0))
    closed.generate(Request("asr", "fra", audio=encoded(clip(0)), params=SHORT))
    started = workers(os.getpid()) - before
    for process in started:
        os.kill(process, signal.SIGSTOP)
    call = beside(closed.generate, Request("asr", "fra", audio=encoded(clip(1)), params=SHORT))
    closed.close()
    assert len(started) == 1 and not workers(os.getpid()) - before
    with pytest.raises(EngineClosedError, match="was closed"):
        call.result(PATIENCE)


def test_an_engine_that_is_forgotten_ends_its_processes(checkpoint: Checkpoint) -> None:
    before = workers(os.getpid())
    forgotten = load(checkpoint(0))
    forgotten.generate(Request("asr", "fra", audio=encoded(clip(0)), params=SHORT))
    (process,) = workers(os.getpid()) - before
    del forgotten
    gc.collect()
    wait_for_end(process)
