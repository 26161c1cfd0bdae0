"""Decode steps as CUDA graphs: they read and write what the host's launches do, for any batch of the same shape."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seamless_engine import DecodingParams, Engine, EngineConfig, Request
from seamless_engine.cuda_graphs import StepGraphs, bucket, table_width
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


def test_tables_of_the_least_width_are_one_chunk_of_decode_attention() -> None:
    for arch, by_dims in table()["paged_attention"].items():
        chunks = {entry["CHUNK"] for by_dtype in by_dims.values() for entry in by_dtype.values()}
        assert chunks == {table_width(1)} or arch == "interpreter"


OTHERS = (
    DecodingParams(num_beams=3, no_repeat_ngram_size=2, max_new_tokens=9),
    DecodingParams(do_sample=True, seed=4, max_new_tokens=9),
    DecodingParams(repetition_penalty=1.3, bad_words_ids=((5, 6), (9,)), max_new_tokens=9),
)


def plain(rng: random.Random, languages: list[str]) -> Request:
    request = random_request(rng, languages)
    beams = rng.choice([1, 1, 3, 5])
    request.params = DecodingParams(
        num_beams=beams, min_new_tokens=rng.choice([0, 0, 4]), max_new_tokens=rng.choice([5, 9, 14])
    )
    return request


@pytest.mark.parametrize("seed", range(2))
def test_step_graphs_give_the_results_of_the_host(checkpoint: Callable[[int], Path], seed: int) -> None:
    options = EngineConfig(max_num_seqs=24, cuda_graphs=False)
    engine = Engine.from_pretrained(checkpoint(seed), device=DEVICE, options=options, dtype="float32")
    rng = random.Random(seed)
    requests = [plain(rng, engine.languages("s2st")) for _ in range(20)]
    by_host = [Request("t2tt", "fra", text=TEXTS[0], src_lang="eng", params=params) for params in OTHERS]
    expected = engine.generate(requests)
    assert not any(result.error for result in expected)
    capture = ReplayedCapture()
    graphs = engine.core.runner.launch_by_graphs(capture)
    for beside in ([], [], by_host):
        for tensor in (engine.core.runner.pool.k, engine.core.runner.pool.v, engine.core.runner.state.state_pool):
            tensor.fill_(torch.nan)
        order = rng.sample(range(len(requests)), len(requests))
        results = engine.generate([requests[i] for i in order] + beside)
        assert all(same(expected[i], result) for i, result in zip(order, results, strict=False))
    assert graphs.num_graphs == capture.captured > 5


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


def test_step_graphs_capture_a_shape_once_and_no_more_than_the_limit() -> None:
    def batch(num_queries: int, needs_logits: tuple[int, ...] = ()) -> StepBatch:
        graph_key = GraphKey(
            64, 64, beams=1, num_bad_word_tokens=0, ngram_size=0, min_new_tokens=False, needs_logits=needs_logits
        )
        return StepBatch([], graph_key, *[torch.zeros(num_queries, dtype=torch.int32)] * 7)

    capture = ReplayedCapture()
    graphs = StepGraphs(lambda _: torch.zeros(1), capture, limit=2)
    replayed = []
    for num_queries in (1, 1, 2, 3, 3, 1):
        graphs(batch(num_queries))
        replayed.append(capture.replayed)
    graphs(batch(1, needs_logits=(0,)))
    assert replayed == [0, 1, 1, 1, 1, 2] and capture.replayed == 2
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
