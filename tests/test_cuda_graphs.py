"""Decode steps as CUDA graphs: they read and write what the host's launches do, for any batch of the same shape."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from seamless_engine import CapacityError, DecodingParams, Engine, EngineConfig, Request, model_runner
from seamless_engine.cuda_graphs import StepGraphs, bucket, table_width
from seamless_engine.job import Job
from seamless_engine.search.completion_queue import CompletionQueue
from seamless_engine.search.schema import Status
from seamless_engine.search.step_batch import GraphKey, StepBatch
from seamless_kernels.config import table
from support.graphs import FailingCapture, ReplayedCapture
from support.parity import TEXTS, random_request, same

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def test_bucket_rounds_up_by_an_eighth_at_most() -> None:
    sizes = [bucket(count) for count in range(1, 1300)]
    assert all(count <= size <= max(count * 9 / 8, count) for count, size in enumerate(sizes, 1))
    assert sizes == sorted(sizes) and all(bucket(size) == size for size in sizes)
    assert len(set(sizes)) < 80


APART = (
    DecodingParams(num_beams=3, no_repeat_ngram_size=2, max_new_tokens=9),
    DecodingParams(do_sample=True, seed=4, num_return_sequences=3, max_new_tokens=9),
    DecodingParams(repetition_penalty=1.3, bad_words_ids=((5, 6), (9,)), max_new_tokens=9),
)
PLAIN = (DecodingParams(num_beams=5, max_new_tokens=12), DecodingParams(min_new_tokens=4, max_new_tokens=12))


class CopyingQueue(CompletionQueue):
    """Copies a status at once, as from a GPU: the next replay of a graph overwrites its result."""

    def push(self, searches: list[tuple[Job, int]], status: torch.Tensor) -> None:
        super().push(searches, status.clone())


def asked(*all_params: DecodingParams) -> list[Request]:
    return [
        Request("t2tt", "fra", text=TEXTS[i % len(TEXTS)], src_lang="eng", params=params)
        for i, params in enumerate(all_params)
    ]


@pytest.mark.parametrize("seed", range(2))
def test_step_graphs_give_the_results_of_the_host(checkpoint: Callable[[int], Path], seed: int) -> None:
    options = EngineConfig(max_num_seqs=24, cuda_graphs=False)
    engine = Engine.from_pretrained(checkpoint(seed), device=DEVICE, options=options, dtype="float32")
    rng = random.Random(seed)
    requests = [random_request(rng, engine.languages("s2st")) for _ in range(20)] + asked(*APART, *PLAIN)
    expected = engine.generate(requests)
    assert not any(result.error for result in expected)
    capture = ReplayedCapture()
    graphs = engine.core.runner.launch_by_graphs(capture)
    for delay in range(3):
        engine.core.runner.completions = CopyingQueue(delay)
        for tensor in (engine.core.runner.pool.k, engine.core.runner.pool.v, engine.core.runner.state.state_pool):
            tensor.fill_(torch.nan)
        order = rng.sample(range(len(requests)), len(requests))
        results = engine.generate([requests[i] for i in order])
        assert all(same(expected[i], result) for i, result in zip(order, results, strict=True))
    assert graphs.num_graphs == capture.captured > 5


@pytest.mark.parametrize("backend", ["triton"] if DEVICE == "cuda" else ["torch", "native"], indirect=True)
@pytest.mark.parametrize("plain", [PLAIN, ()], ids=["mixed", "apart-alone"])
def test_a_step_replays_a_graph_of_all_requests_and_launches_apart_what_it_lacks(
    checkpoint: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, backend: str, plain: tuple[DecodingParams, ...]
) -> None:
    options = EngineConfig(max_num_seqs=24, cuda_graphs=False)
    engine = Engine.from_pretrained(checkpoint(0), device=DEVICE, options=options, tasks=["t2tt"], dtype="float32")
    requests = asked(*APART, *plain)
    expected = [engine.generate([request])[0] for request in requests]
    runner, capture = engine.core.runner, ReplayedCapture()
    runner.launch_by_graphs(capture)
    steps: list[list[tuple[str, int]]] = []

    def spy(owner: Any, name: str, count: Callable[..., int]) -> None:
        call = getattr(owner, name)

        def counted(*args: Any) -> Any:
            if not capture.replaying:
                steps[-1].append((name, count(*args)))
            return call(*args)

        monkeypatch.setattr(owner, name, counted)

    def decode(jobs: list[Job]) -> list[tuple[Job, Status | Exception]]:
        steps.append([("replayed", -capture.replayed)])
        ended = launch(jobs)
        steps[-1][0] = ("replayed", steps[-1][0][1] + capture.replayed)
        return ended

    launch = runner.decode
    monkeypatch.setattr(runner, "decode", decode)
    spy(runner.search, "prepare_inputs", lambda batch, _: len(batch.query_beam))
    spy(runner.search, "update_state", lambda batch, _: len(batch.searches))
    spy(runner.decoder, "step", lambda inputs, _: len(inputs.tokens))
    spy(runner.decoder, "next_tokens", len)
    for _ in range(2):  # the first time, shapes are captured
        steps.clear()
        assert all(same(a, b) for a, b in zip(expected, engine.generate(requests), strict=True))
    first, second = (
        [("replayed", 1), *choice]
        for choice in (
            [("prepare_inputs", 10), ("next_tokens", 10), ("update_state", 5)],  # both tokens of five prompts
            [("prepare_inputs", 7), ("next_tokens", 7), ("update_state", 5)],
        )
    )
    assert steps[:2] == [first, second]
    assert all(step[0] == ("replayed", 1) for step in steps) and len(steps) > 5
    if plain:
        assert steps[-1] == [("replayed", 1)], "requests that choose apart had ended"


def test_warmup_captures_the_usual_steps_before_the_first_request(checkpoint: Callable[[int], Path]) -> None:
    options = EngineConfig(max_num_seqs=12, cuda_graphs=False)
    engine = Engine.from_pretrained(checkpoint(0), device=DEVICE, options=options, tasks=["t2tt"], dtype="float32")
    usual = [DecodingParams(num_beams=beams, max_new_tokens=8) for beams in (1, 5)]
    requests = [Request("t2tt", "fra", text=text, src_lang="eng", params=p) for text in TEXTS for p in usual]
    expected = engine.generate(requests)
    capture = ReplayedCapture()
    engine.core.runner.launch_by_graphs(capture)
    engine.core.runner.warmup_steps()
    before = capture.captured
    assert all(same(a, b) for a, b in zip(expected, engine.generate(requests), strict=True))
    assert capture.captured == before > 10


def test_tables_of_the_least_width_are_one_chunk_of_decode_attention() -> None:
    by_arch = table()["paged_attention"]
    entries = [
        entry
        for arch in by_arch.keys() - {"interpreter"}
        for dtypes in by_arch[arch].values()
        for entry in dtypes.values()
    ]
    assert {entry["CHUNK"] for entry in entries} == {table_width(1)}


def test_decode_chooses_apart_in_parts_of_bounded_logits(
    checkpoint: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = EngineConfig(max_num_seqs=24, cuda_graphs=False)
    engine = Engine.from_pretrained(checkpoint(0), device=DEVICE, options=options, tasks=["t2tt"], dtype="float32")
    requests = asked(*APART, *APART, *PLAIN)
    expected = engine.generate(requests)
    runner, parts = engine.core.runner, []
    runner.launch_by_graphs(ReplayedCapture())
    run_choice = runner.run_choice

    def counted(batch: StepBatch) -> torch.Tensor:
        parts.append((len({job for job, _ in batch.searches}), len(batch.query_beam)))
        return run_choice(batch)

    monkeypatch.setattr(runner, "run_choice", counted)
    monkeypatch.setattr(model_runner, "LOGITS_BYTES", 4 * len(runner.decoder.head) * 4)
    assert all(same(a, b) for a, b in zip(expected, engine.generate(requests), strict=True))
    assert parts[:8] == [(1, 2), (1, 6), (2, 4), (1, 6), (1, 2)] + [(1, 3), (2, 4), (1, 3)]


@pytest.mark.parametrize("room", [2, 4, 7])
def test_generate_chooses_apart_in_parts_when_that_runs_out_of_memory(
    checkpoint: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """A request that needs more than a part has fails alone; those that do not choose apart do not notice."""
    options = EngineConfig(max_num_seqs=24, cuda_graphs=False)
    engine = Engine.from_pretrained(checkpoint(0), device=DEVICE, options=options, tasks=["t2tt"], dtype="float32")
    requests = asked(*APART, *APART, *PLAIN)
    expected = engine.generate(requests)
    runner = engine.core.runner
    runner.launch_by_graphs(ReplayedCapture())
    run_choice = runner.run_choice

    def small(batch: StepBatch) -> torch.Tensor:
        if len(batch.query_beam) > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return run_choice(batch)

    monkeypatch.setattr(runner, "run_choice", small)
    for request, before, after in zip(requests, expected, engine.generate(requests), strict=True):
        params = request.params
        assert params is not None
        most = max(2 * params.num_searches, params.num_beams)
        if params not in PLAIN and most > room:
            assert isinstance(after.error, CapacityError) and after.error.out_of_memory
        else:
            assert same(before, after)
    assert runner.blocks.free_blocks == runner.blocks.num_blocks


def test_generate_fails_only_requests_that_choose_apart_when_that_stops_half_way(
    checkpoint: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = EngineConfig(max_num_seqs=24, cuda_graphs=False)
    engine = Engine.from_pretrained(checkpoint(0), device=DEVICE, options=options, tasks=["t2tt"], dtype="float32")
    requests = asked(*PLAIN, *APART)
    expected = engine.generate(requests)
    runner = engine.core.runner
    runner.launch_by_graphs(ReplayedCapture())
    run_choice = runner.run_choice

    def stumble(batch: StepBatch) -> torch.Tensor:
        run_choice(batch)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(runner, "run_choice", stumble)
    results = engine.generate(requests)
    assert all(same(a, b) for a, b in zip(expected[:2], results[:2], strict=True))
    assert all(str(result.error).startswith("UnrepeatableError") for result in results[2:])


def test_step_graphs_capture_a_shape_once_and_no_more_than_the_limit() -> None:
    def batch(num_queries: int) -> StepBatch:
        graph_key = GraphKey(
            64, 64, beams=1, num_bad_word_tokens=0, ngram_size=0, min_new_tokens=False, needs_logits=()
        )
        return StepBatch([], graph_key, *[torch.zeros(num_queries, dtype=torch.int32)] * 7)

    capture = ReplayedCapture()
    graphs = StepGraphs(lambda _: torch.zeros(1), capture, limit=2)
    replayed = []
    for num_queries in (1, 1, 2, 3, 3, 1):
        graphs(batch(num_queries))
        replayed.append(capture.replayed)
    assert replayed == [0, 1, 1, 1, 1, 2]
    assert capture.captured == graphs.num_graphs == 2


def test_a_capture_that_fails_costs_no_result(checkpoint: Callable[[int], Path]) -> None:
    engine = Engine.from_pretrained(
        checkpoint(0), device=DEVICE, options=EngineConfig(max_num_seqs=8, cuda_graphs=False)
    )
    requests = [Request("t2tt", "fra", text=text, src_lang="eng") for text in TEXTS]
    expected = engine.generate(requests)
    graphs = engine.core.runner.launch_by_graphs(FailingCapture())
    assert all(same(a, b) for a, b in zip(expected, engine.generate(requests), strict=True))
    assert graphs.num_graphs == 0
