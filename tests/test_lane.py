"""Passes beside the decode steps: the results of passes in turn, whatever is in flight when something happens."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from seamless_engine import AsyncEngine, DecodingParams, Engine, EngineConfig, Request, Result
from seamless_engine.job import Job
from seamless_engine.model_inputs import Tokens
from support.callers import assert_free
from support.packed import DEVICE
from support.parity import TEXTS, random_request, same

TIGHT: dict[str, Any] = {"max_num_seqs": 12, "num_slots": 900, "max_encoder_tokens": 60, "max_synthesis_tokens": 30}
Folder = Callable[[int], Path]


def load(folder: Path, **fields: Any) -> Engine:
    return Engine.from_pretrained(folder, device=DEVICE, dtype="float32", options=EngineConfig(**fields))


class Gate:
    """Holds the passes of a kind back until it is opened."""

    def __init__(self, engine: Engine, kind: str) -> None:
        self.open, self.entered = threading.Event(), threading.Event()
        self._run = getattr(engine._runner, kind)
        setattr(engine._runner, kind, self)

    def __call__(self, items: list[Any]) -> None:
        self.entered.set()
        assert self.open.wait(60)
        self._run(items)


def request(text: str, task: str = "t2tt", length: int = 8) -> Request:
    params = DecodingParams(min_new_tokens=length, max_new_tokens=length)
    return Request(task, "fra", text=text, src_lang="eng", params=params)


def submit(engine: Engine, one: Request) -> Job:
    job = engine._preprocessor.prepare(one, one.params or DecodingParams(), Result(0, one.task, "fra"))
    engine._loop.submit(job)
    return job


def held(engine: Engine, kind: str) -> tuple[Gate, Job]:
    """A request that is in a pass of this kind, and what holds the pass back."""
    gate = Gate(engine, kind)
    job = submit(engine, request(TEXTS[1], "t2st"))
    for _ in range(200):
        if gate.entered.wait(0.01):
            return gate, job
        engine._loop.step()
    raise AssertionError("no such pass began")


def finish(engine: Engine) -> None:
    while engine._loop.busy:
        engine._loop.step()


@pytest.fixture
def decoding(checkpoint: Folder) -> Iterator[tuple[Engine, Job]]:
    """An engine, and a long request that it decodes: passes run beside that."""
    engine = load(checkpoint(0), overlap=True, max_synthesis_tokens=1)
    job = submit(engine, request(TEXTS[0], length=300))
    while not job.position:
        engine._loop.step()
    yield engine, job
    blocks = engine._runner.blocks
    blocks.check_integrity()
    assert blocks.free_blocks == blocks.num_blocks


@pytest.mark.parametrize("seed", range(3))
def test_results_are_those_of_passes_in_turn(checkpoint: Folder, seed: int) -> None:
    rng = random.Random(seed)
    in_turn, beside = load(checkpoint(seed), **TIGHT), load(checkpoint(seed), **TIGHT, overlap=True)
    requests = [random_request(rng, in_turn.languages("s2st")) for _ in range(24)]
    expected = in_turn.generate(requests)
    assert sum(result.error is None for result in expected) > 12
    for _ in range(2):
        assert all(same(a, b) for a, b in zip(expected, beside.generate(requests), strict=True))
    beside._runner.blocks.check_integrity()

    async def shared() -> list[Result]:
        async with AsyncEngine(beside) as engine:
            return await engine.generate(requests)

    assert all(same(a, b) for a, b in zip(expected, asyncio.run(shared()), strict=True))


@pytest.mark.parametrize("kind", ["encode", "speak"])
def test_decode_steps_go_on_beside_a_pass(decoding: tuple[Engine, Job], kind: str) -> None:
    engine, first = decoding
    gate, job = held(engine, kind)
    before, position = first.position, job.position
    for _ in range(5):
        engine._loop.step()
    assert first.position == before + 5 and job.position == position and not job.outbox
    gate.open.set()
    finish(engine)
    assert [one.result.error for one in (*job.outbox, *first.outbox)] == [None, None]


def test_a_request_in_a_pass_leaves_after_it(decoding: tuple[Engine, Job]) -> None:
    engine, _ = decoding
    gate, job = held(engine, "encode")
    job.cancelled = True
    free = engine._runner.blocks.free_blocks
    engine._loop.step()
    assert not job.outbox and engine._runner.blocks.free_blocks == free
    gate.open.set()
    finish(engine)
    assert job.outbox.popleft().result.finish_reason == "cancelled" and not job.outbox


@pytest.mark.parametrize("kind", ["encode", "speak"])
def test_a_request_that_is_dropped_in_a_pass_is_waited_for(decoding: tuple[Engine, Job], kind: str) -> None:
    engine, _ = decoding
    gate, job = held(engine, kind)
    threading.Timer(0.2, gate.open.set).start()
    engine._loop.drop(job)
    assert gate.open.is_set()
    finish(engine)
    assert not job.outbox


def test_who_fails_in_a_pass_fails_alone(checkpoint: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(checkpoint(0), **TIGHT, overlap=True)
    requests = [request(text, "t2st") for text in TEXTS]
    expected = engine.generate(requests)
    for kind, at in (("encode", 1), ("speak", 2)):
        whole = getattr(engine._runner, kind)

        def stumble(items: list[Any], whole: Any = whole, wrong: Request = requests[at]) -> None:
            if any((item if isinstance(item, Job) else item[0]).request == wrong for item in items):
                raise torch.OutOfMemoryError("CUDA out of memory.")
            whole(items)

        with monkeypatch.context() as patch:
            patch.setattr(engine._runner, kind, stumble)
            results = engine.generate(requests)
        assert str(results[at].error).startswith("out of memory for this request alone")
        assert all(same(a, b) for i, (a, b) in enumerate(zip(expected, results, strict=True)) if i != at)
    engine._runner.blocks.check_integrity()


def test_a_broken_device_ends_the_call_and_leaves_nothing_behind(
    checkpoint: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(checkpoint(0), **TIGHT, overlap=True)
    requests = [request(text) for text in TEXTS]
    expected = engine.generate(requests)

    def broken(items: list[Any]) -> None:
        raise torch.AcceleratorError("an illegal memory access")

    with monkeypatch.context() as patch:
        patch.setattr(engine._runner, "encode", broken)
        with pytest.raises(torch.AcceleratorError, match="illegal memory access"):
            engine.generate(requests)
    assert not engine._loop.busy
    assert all(same(a, b) for a, b in zip(expected, engine.generate(requests), strict=True))


def test_a_stream_that_is_closed_early_drops_what_is_in_flight(checkpoint: Folder) -> None:
    engine = load(checkpoint(0), **TIGHT, overlap=True)
    requests = [request(text, "t2st") for text in TEXTS * 4]
    expected = engine.generate(requests)
    for taken in (1, 3, 5):
        results = engine.stream(requests)
        for _ in range(taken):
            next(results)
        results.close()
        assert_free(engine)
    assert all(same(a, b) for a, b in zip(expected, engine.generate(requests), strict=True))


def test_speech_is_not_put_off_by_encoder_passes(checkpoint: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than texts do here, so that one follows the other."""
    engine = load(checkpoint(0), overlap=True, max_encoder_tokens=20, max_synthesis_tokens=20)
    encode, drawn = engine._runner.encode, 0

    def slow(admitted: list[Any]) -> None:
        time.sleep(0.02)
        encode(admitted)

    def endless() -> Iterator[Request]:
        nonlocal drawn
        while True:
            drawn += 1
            assert drawn < 100, "no speech comes out"
            yield request(TEXTS[drawn % len(TEXTS)], "t2st", length=4)

    monkeypatch.setattr(engine._runner, "encode", slow)
    results = engine.stream(endless())
    for count in range(1, 21):
        assert next(results).error is None
        assert drawn < count + 40
    results.close()


def test_a_process_ends_with_an_engine_that_nobody_closed(checkpoint: Folder) -> None:
    code = f"""
import asyncio
from seamless_engine import AsyncEngine, Engine, EngineConfig, Request
engine = Engine.from_pretrained({str(checkpoint(0))!r}, device="cpu", options=EngineConfig(overlap=True))

async def main():
    shared = AsyncEngine(engine)
    for _ in range(8):
        await shared.submit(Request("t2st", "fra", text="how far is it", src_lang="eng"))

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "the engine failed" not in done.stderr, done.stderr


def test_what_runs_in_the_callers_thread_has_the_model_to_itself(checkpoint: Folder) -> None:
    engine = load(checkpoint(0), **TIGHT, overlap=True)
    tokens = Tokens(engine._preprocessor.tokenizer.encode(TEXTS[0], "eng"))
    expected = engine.forced_logits(tokens, [3, 5, 9])
    gate = Gate(engine, "encode")
    submit(engine, request(TEXTS[1]))
    engine._loop.step()
    threading.Timer(0.2, gate.open.set).start()
    assert torch.equal(engine.forced_logits(tokens, [3, 5, 9]), expected)
    assert gate.open.is_set()
    finish(engine)
