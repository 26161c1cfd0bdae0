"""Passes as CUDA graphs: rounded up to the size of a graph, the tokens of the pass itself have the same bits."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from seamless_engine import Engine, EngineConfig, Request, cuda_graphs, model_runner
from seamless_engine.cuda_graphs import PASS_SIZES, GraphCapture, PassGraphs
from seamless_engine.model_inputs import Features
from seamless_engine.model_runner import ModelRunner
from seamless_engine.models.layers import segment_of, segment_positions
from seamless_engine.request import SPEECH_OUT, TASKS
from seamless_engine.search.step_batch import BatchBuilder
from support.graphs import FailingCapture, ReplayedCapture
from support.packed import normal
from support.parity import random_request, same

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Checkpoint = Callable[[int], Path]


def captured_by(capture: GraphCapture, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...]) -> None:
    """Has the engines that are loaded from now on launch passes of these sizes as graphs."""
    monkeypatch.setattr(model_runner, "graph_capture", lambda *_: capture)
    monkeypatch.setattr(model_runner, "PASS_SIZES", sizes)


@torch.inference_mode()
def poison(runner: ModelRunner) -> None:
    """No pass may read what earlier passes left in the inputs of the graphs."""
    for graphs in runner.pass_graphs:
        if graphs.inputs is not None:
            x = graphs.inputs.x
            x.fill_(torch.nan if x.is_floating_point() else 1)


@pytest.mark.parametrize("seed", range(2))
def test_pass_graphs_give_the_results_of_the_host(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    # The convolutions of a CPU take no tokens beyond the last segment; the test of the kernels is below.
    tasks = [task for task in TASKS if DEVICE == "cuda" or task not in SPEECH_OUT]

    def load(cuda_graphs: bool) -> Engine:
        options = EngineConfig(max_num_seqs=24, cuda_graphs=cuda_graphs)
        return Engine.from_pretrained(checkpoint(seed), tasks=tasks, device=DEVICE, options=options, dtype="float32")

    engine = load(cuda_graphs=False)
    rng = random.Random(seed)
    sampled = [random_request(rng, engine.languages("s2tt")) for _ in range(24)]
    requests = [request for request in sampled if request.task in tasks][:12]
    frames = torch.randn(31, 160, generator=torch.Generator().manual_seed(seed))
    requests += [Request("s2tt", "fra", audio=Features(frames[:count], valid)) for count, valid in ((31, 30), (2, 2))]
    expected = engine.generate(requests)
    assert not any(result.error for result in expected)

    capture = ReplayedCapture()
    captured_by(capture, monkeypatch, (16, 64, 96, 256))
    engine = load(cuda_graphs=True)
    runner = engine.core.runner
    assert {graphs.num_graphs for graphs in runner.pass_graphs} == {4}
    runner.step = runner.run_step  # so that only passes are graphs
    runner.batches = BatchBuilder(24, runner.max_length, runner.device)
    poison(runner)
    for at_once in (1, 2, 3, 5, 14):
        for start in range(0, len(requests), at_once):
            results = engine.generate(requests[start : start + at_once])
            assert all(same(a, b) for a, b in zip(expected[start:], results, strict=False))
            poison(runner)
    assert capture.replayed > len(requests)


@pytest.mark.parametrize("backend", ["triton"], indirect=True)
def test_kernels_do_not_read_tokens_beyond_the_last_segment(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    capture = ReplayedCapture()
    captured_by(capture, monkeypatch, (7,))
    monkeypatch.setattr(cuda_graphs, "PASS_SEGMENTS", 3)
    monkeypatch.setattr(ModelRunner, "warmup", lambda _: None)  # in the interpreter it takes minutes
    options = EngineConfig(max_num_seqs=8, num_slots=512)
    runner = Engine.from_pretrained(checkpoint(0), device=DEVICE, options=options, dtype="float32").core.runner
    config, t2u, vocoder = runner.config, runner.t2u, runner.vocoder
    assert t2u is not None and vocoder is not None
    for stage in vocoder.generator.stages:
        stage.blocks = stage.blocks[: 2 if stage is vocoder.generator.stages[0] else 1]  # each takes seconds here
    frames, states = normal(5, 160), normal(5, config.hidden_size)
    units, voiced = (
        normal(5, config.unit_embed_dim),
        normal(5, config.lang_embed_dim + config.unit_embed_dim + config.spkr_embed_dim),
    )
    tokens = torch.arange(3, 8, device=DEVICE)
    bounds, full, last_is_half = (
        torch.tensor(numbers, dtype=torch.int32, device=DEVICE) for numbers in ([0, 3, 5], [3, 2], [3, 1])
    )
    passes: list[tuple[Any, tuple[Any, ...]]] = [
        (runner.encode_frames, (frames, bounds, last_is_half, 2)),
        (runner.encode_tokens, (tokens, bounds)),
        (t2u.encoder, (states, bounds, full)),
        (t2u.durations, (states, bounds)),
        (t2u.decoder, (states, bounds)),
        (vocoder.durations, (units, bounds)),
        (vocoder.generate_clips, (voiced, bounds)),
    ]
    assert [network for network, _ in passes] == runner.pass_graphs
    with torch.inference_mode():
        expected = [graphs.network(*arguments) for graphs, arguments in passes]
        for replayed in (0, len(passes)):
            found = [graphs(*arguments) for graphs, arguments in passes]
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
            assert (capture.captured, capture.replayed) == (len(passes), replayed)
            poison(runner)


def test_pass_sizes_are_rounded_up_by_a_quarter_at_most() -> None:
    assert PASS_SIZES[0] == 64 and PASS_SIZES[-1] == 2048
    assert all(a < b <= a * 5 / 4 for a, b in zip(PASS_SIZES, PASS_SIZES[1:], strict=False))


def test_pass_graphs_capture_a_size_once_and_large_passes_never() -> None:
    run: list[tuple[int, int]] = []

    def encode(x: torch.Tensor, cu_seqlens: torch.Tensor, valid: torch.Tensor, num_states: int) -> torch.Tensor:
        run.append((len(x), len(valid)))
        return x[:num_states] * 2

    def encoded(*lengths: int) -> None:
        x = torch.arange(sum(lengths), device=DEVICE).float()[:, None]
        bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32, device=DEVICE)
        out = graphs(x, bounds, bounds.diff(), len(x))
        assert torch.equal(out, x * 2)
        assert graphs.inputs is not None
        inside = graphs.inputs.cu_seqlens
        assert int(inside[-1]) <= 20 and (inside.diff() >= graphs.inputs.valid).all()

    capture = ReplayedCapture()
    graphs = PassGraphs(encode, None, capture, sizes=(10, 20))
    encoded(17)
    assert (capture.captured, capture.replayed, graphs.num_graphs) == (1, 0, 1)
    encoded(18)  # the same size
    encoded(5, 12)
    assert (capture.captured, capture.replayed, graphs.num_graphs) == (1, 2, 1)
    assert run == [(20, 8)] * len(run)
    assert graphs.input_bytes == 4 * (20 + 9 + 8)
    encoded(10)
    for _ in range(3):
        encoded(21)
        encoded(*[2] * 9)
    assert capture.captured == graphs.num_graphs == 2 and run[-2:] == [(21, 1), (18, 9)]


def test_a_capture_that_fails_is_logged_once_and_costs_no_result(caplog: pytest.LogCaptureFixture) -> None:
    """No other graph is tried."""
    capture = FailingCapture()
    bounds = torch.tensor([0, 5], dtype=torch.int32)
    for graphs in [PassGraphs(lambda x, *_: x * 2, None, capture) for _ in range(2)]:
        for length in (5, 5, 5, 4, 4, 4):
            x = torch.arange(length).float()[:, None]
            assert torch.equal(graphs(x, bounds.clamp(max=length), bounds[1:].clamp(max=length), length), x * 2)
        assert capture.tried == 1 and graphs.num_graphs == 0
    assert len(caplog.records) == 1 and "not permitted" in caplog.text


def test_segment_of_covers_tokens_beyond_the_last_segment() -> None:
    bounds = torch.tensor([0, 3, 3, 5, 5], dtype=torch.int32)
    assert segment_of(torch.arange(7), bounds).tolist() == [0, 0, 0, 2, 2, 3, 3]
    assert segment_positions(bounds, 7).tolist() == [0, 1, 2, 0, 1, 0, 1]
