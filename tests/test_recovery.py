"""Batches that fail are halved: a request that fails alone has an error, the others have their usual results."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from seamless_engine import DecodingParams, Engine, EngineConfig, Request
from seamless_engine.errors import CapacityError, NumericalError
from seamless_engine.models.text_decoder import KVPool, NextTokens, StepInputs
from seamless_engine.recovery import bisect_batch
from seamless_engine.search import torch_search
from seamless_engine.search.completion_queue import CompletionQueue
from support.parity import TEXTS, random_request, same

CPU_MESSAGE = "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you asked for 9"
OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError(CPU_MESSAGE),
    RuntimeError("could not create a primitive"),  # oneDNN's
    MemoryError(),
]


def failing(error: Exception, fails: Callable[[list[int]], bool]) -> tuple[Callable[[list[int]], None], list[int]]:
    """A pass over numbers that raises for some batches, and the numbers of the batches that succeeded."""
    done: list[int] = []

    def run(items: list[int]) -> None:
        if fails(items):
            raise error
        done.extend(items)

    return run, done


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=repr)
@pytest.mark.parametrize("room", [1, 2, 3, 5, 8])
def test_bisect_batch_runs_a_batch_that_is_too_large_in_parts(error: Exception, room: int) -> None:
    run, done = failing(error, lambda items: len(items) > room)
    assert bisect_batch(run, list(range(8))) == []
    assert done == list(range(8))


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=repr)
def test_bisect_batch_returns_a_capacity_error_for_an_item_that_is_too_large(error: Exception) -> None:
    run, done = failing(error, lambda items: 5 in items)
    [(item, reason)] = bisect_batch(run, list(range(8)))
    assert item == 5 and isinstance(reason, CapacityError) and "out of memory for this request alone" in str(reason)
    assert done == [0, 1, 2, 3, 4, 6, 7]


def test_bisect_batch_finds_every_item_that_fails() -> None:
    run, done = failing(NumericalError("not finite"), lambda items: bool({2, 3, 7} & set(items)))
    assert [(item, type(reason)) for item, reason in bisect_batch(run, list(range(8)))] == [
        (2, NumericalError),
        (3, NumericalError),
        (7, NumericalError),
    ]
    assert done == [0, 1, 4, 5, 6]


def test_generate_logs_the_traceback_of_an_unexpected_error_and_fails_one_request(
    checkpoint: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["t2tt"])
    requests = [Request("t2tt", "fra", text=text, src_lang="eng") for text in TEXTS]
    expected = engine.generate(requests)
    encode_text, broken = engine.core.runner.encode_text, engine.tokenizer.encode(TEXTS[1], "eng")

    def stumble(sentences: list[list[int]]) -> torch.Tensor:
        return encode_text(sentences) if broken not in sentences else [][0]

    monkeypatch.setattr(engine.core.runner, "encode_text", stumble)
    with caplog.at_level(logging.ERROR):
        results = engine.generate(requests)
    assert str(results.pop(1).error) == "IndexError: list index out of range" and "in stumble" in caplog.text
    assert all(same(a, b) for a, b in zip(expected[:1] + expected[2:], results, strict=True))


@pytest.mark.parametrize("error", [torch.AcceleratorError("an illegal memory access"), KeyboardInterrupt()], ids=repr)
def test_bisect_batch_raises_the_error_of_a_broken_device_and_an_interruption(error: Exception) -> None:
    run, _ = failing(error, lambda items: True)
    with pytest.raises(type(error)):
        bisect_batch(run, [0, 1])


@pytest.mark.parametrize("stage", ["encode", "encode_audio", "encode_text", "synthesize"])
@pytest.mark.parametrize("room", [1, 2])
def test_generate_has_the_same_results_when_a_pass_runs_out_of_memory(
    checkpoint: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, stage: str, room: int
) -> None:
    options = EngineConfig(max_synthesis_tokens=10_000)
    engine = Engine.from_pretrained(checkpoint(0), device="cpu", options=options)
    requests = [random_request(random.Random(i), engine.languages("s2st")) for i in range(12)]
    expected = engine.generate(requests)
    run = getattr(engine.core.runner, stage)

    def small(batch: list) -> Any:
        if len(batch) > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return run(batch)

    monkeypatch.setattr(engine.core.runner, stage, small)
    assert all(same(a, b) for a, b in zip(expected, engine.generate(requests), strict=True))
    engine.core.runner.blocks.check_integrity()


def fill(engine: Engine, monkeypatch: pytest.MonkeyPatch, full: Callable[[StepInputs], bool]) -> None:
    """Have decode steps run out of memory."""
    decoder_step = engine.core.runner.decoder.step

    def step(inputs: StepInputs, pool: KVPool) -> torch.Tensor:
        hidden = decoder_step(inputs, pool)
        if full(inputs):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return hidden

    monkeypatch.setattr(engine.core.runner.decoder, "step", step)


@pytest.mark.parametrize("backend", ["torch", "native"], indirect=True)
@pytest.mark.parametrize("room", [2, 4, 11])
def test_generate_runs_a_decode_step_in_parts_when_it_runs_out_of_memory(
    checkpoint: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, backend: str, room: int
) -> None:
    """A request that needs more than a step has fails alone."""
    engine = Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["s2tt", "t2tt"])
    sampled = [random_request(random.Random(i), engine.languages("s2tt")) for i in range(30)]
    requests = [request for request in sampled if request.task in ("s2tt", "t2tt")]
    expected = engine.generate(requests)
    fill(engine, monkeypatch, lambda inputs: len(inputs.tokens) > room)
    for request, before, after in zip(requests, expected, engine.generate(requests), strict=True):
        if request.params is not None and request.params.num_beams > room:
            assert isinstance(after.error, CapacityError) and after.error.out_of_memory
        else:
            assert same(before, after)
    engine.core.runner.blocks.check_integrity()
    assert engine.core.runner.blocks.free_blocks == engine.core.runner.blocks.num_blocks


def test_generate_keeps_a_finished_text_when_a_later_step_fails(
    checkpoint: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where statuses are read a step late, as on a GPU, a finished search takes part in one step more."""
    engine = Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["t2tt"])
    next_tokens = engine.core.runner.decoder.next_tokens

    def ends(hidden: torch.Tensor) -> NextTokens:
        expected = next_tokens(hidden)
        expected.logits[:, 3] = 1e4
        return expected

    monkeypatch.setattr(engine.core.runner.decoder, "next_tokens", ends)
    lengths = [DecodingParams(min_new_tokens=least, max_new_tokens=8) for least in (0, 8)]
    requests = [Request("t2tt", "fra", text=TEXTS[0], src_lang="eng", params=params) for params in lengths]
    expected = engine.generate(requests)
    assert [len(result.tokens) for result in expected] == [1, 8]
    engine.core.runner.completions = CompletionQueue(delay=1)
    # Both read the prompt, in four queries. The query of the finished search is at position 0 again.
    fill(engine, monkeypatch, lambda inputs: len(inputs.tokens) < 4 and 0 in inputs.positions)
    assert all(same(a, b) for a, b in zip(expected, engine.generate(requests), strict=True))


def test_generate_does_not_repeat_a_step_that_failed_while_it_changed_the_searches(
    checkpoint: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEAMLESS_BACKEND", "torch")
    engine = Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["t2tt"])
    requests = [Request("t2tt", "fra", text=text, src_lang="eng") for text in TEXTS]
    expected = engine.generate(requests)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patch:
        patch.setattr(torch_search, "move_tables", full)
        for result in engine.generate(requests):
            assert str(result.error).startswith("UnrepeatableError: a decode step failed while")
    assert all(same(a, b) for a, b in zip(expected, engine.generate(requests), strict=True))


@pytest.mark.parametrize("stage", ["encode", "synthesize"])
def test_generate_fails_only_the_request_that_does_not_fit(
    checkpoint: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    options = EngineConfig(max_synthesis_tokens=10_000)
    engine = Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["t2st"], options=options)
    requests = [Request("t2st", "fra", text=text, src_lang="eng") for text in TEXTS]
    expected = engine.generate(requests)
    run = getattr(engine.core.runner, stage)

    def small(jobs: list) -> Any:
        if any((job[0] if stage == "encode" else job).request == requests[2] for job in jobs):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return run(jobs)

    monkeypatch.setattr(engine.core.runner, stage, small)
    results = engine.generate(requests)
    large = results.pop(2)
    assert isinstance(large.error, CapacityError) and "out of memory for this request alone" in str(large.error)
    assert large.audio is None and large.text == (expected[2].text if stage == "synthesize" else "")
    assert all(same(a, b) for a, b in zip(expected[:2] + expected[3:], results, strict=True))
    engine.core.runner.blocks.check_integrity()
    assert engine.core.runner.blocks.free_blocks == engine.core.runner.blocks.num_blocks
