"""A recorded pass is the pass: rounded up to the size that was recorded, its own rows have the same bits."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seamless_engine import Engine, EngineConfig, Request, pass_graphs
from seamless_engine.cuda_graphs import CudaGraphCapture, Work
from seamless_engine.model_inputs import Features
from seamless_engine.model_runner import ModelRunner
from seamless_engine.models.layers import segment_of, segment_positions
from seamless_engine.pass_graphs import PassGraphs
from seamless_engine.request import SPEECH_OUT, TASKS
from support.graphs import played_back
from support.packed import normal
from support.parity import random_request, same

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Checkpoint = Callable[[int], Path]


class Played:
    """Records, and counts how often what it recorded is launched."""

    def __init__(self) -> None:
        self.record = CudaGraphCapture() if DEVICE == "cuda" else played_back
        self.launched = 0

    def __call__(self, work: Work) -> Work:
        replay = self.record(work)
        assert replay

        def counted() -> torch.Tensor:
            self.launched += 1
            return replay()

        return counted


@torch.inference_mode()
def poison(runner: ModelRunner) -> None:
    """What earlier passes left is nobody's to read."""
    for graphs in runner.pass_graphs:
        if graphs._inputs is not None:
            rows = graphs._inputs.rows
            rows.fill_(torch.nan if rows.is_floating_point() else 1)


@pytest.mark.parametrize("seed", range(2))
def test_graphs_and_the_host_give_the_same_results(checkpoint: Checkpoint, seed: int) -> None:
    options = EngineConfig(max_num_seqs=24, cuda_graphs=False)
    # What does the convolutions on a CPU takes no rows beyond the last segment; the kernels' test is below.
    tasks = [task for task in TASKS if DEVICE == "cuda" or task not in SPEECH_OUT]
    engine = Engine.from_pretrained(checkpoint(seed), tasks=tasks, device=DEVICE, options=options, dtype="float32")
    rng = random.Random(seed)
    drawn = [random_request(rng, engine.languages("s2tt")) for _ in range(24)]
    requests = [request for request in drawn if request.task in tasks][:12]
    rows = torch.randn(31, 160, generator=torch.Generator().manual_seed(seed))
    requests += [Request("s2tt", "fra", audio=Features(rows[:count], valid)) for count, valid in ((31, 30), (2, 2))]
    expected = engine.generate(requests)
    assert not any(result.error for result in expected)
    played = Played()
    engine.core.runner.graph_passes(played)
    for company in (1, 1, 2, 3, 5, 14):
        for start in range(0, len(requests), company):
            results = engine.generate(requests[start : start + company])
            assert all(same(a, b) for a, b in zip(expected[start:], results, strict=False))
            poison(engine.core.runner)
    assert played.launched > len(requests)


@pytest.mark.parametrize("backend", ["triton"], indirect=True)
def test_the_kernels_leave_alone_what_no_segment_has(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setattr(pass_graphs, "bucket", lambda count: count + 3)
    options = EngineConfig(max_num_seqs=8, num_slots=512, cuda_graphs=False)
    runner = Engine.from_pretrained(checkpoint(0), device=DEVICE, options=options, dtype="float32").core.runner
    config, t2u, vocoder = runner.config, runner.t2u, runner.vocoder
    assert t2u is not None and vocoder is not None
    for stage in vocoder.generator.stages:
        stage.blocks = stage.blocks[: 2 if stage is vocoder.generator.stages[0] else 1]  # each takes seconds here
    frames, states = normal(5, 160), normal(5, config.hidden_size)
    units, voiced = normal(5, config.unit_embed_dim), normal(5, vocoder.generator.conv_pre.weight.shape[1])
    tokens = torch.arange(3, 8, device=DEVICE)
    bounds, whole, last_is_half = (
        torch.tensor(numbers, dtype=torch.int32, device=DEVICE) for numbers in ([0, 3, 5], [3, 2], [3, 1])
    )

    @torch.inference_mode()
    def passes() -> list[torch.Tensor]:
        assert runner.encode_tokens is not None
        return [
            runner.max_encoder_tokens(frames, bounds, last_is_half, 2),
            runner.encode_tokens(tokens, bounds),
            t2u.encoder(states, bounds, whole),
            t2u.durations(states, bounds),
            t2u.decoder(states, bounds),
            vocoder.durations(units, bounds),
            vocoder.whole(voiced, bounds),
        ]

    played = Played()
    runner.graph_passes(played)
    expected = passes()
    assert len(runner.pass_graphs) == len(expected)
    for launched in (0, len(expected)):
        assert all(torch.equal(a, b) for a, b in zip(passes(), expected, strict=True))
        assert played.launched == launched
        poison(runner)


def test_a_size_is_recorded_once_and_large_passes_never() -> None:
    run: list[tuple[int, int]] = []
    recorded: list[Work] = []

    def encode(rows: torch.Tensor, cu_seqlens: torch.Tensor, valid: torch.Tensor, encodings: int) -> torch.Tensor:
        run.append((len(rows), len(valid)))
        assert int(cu_seqlens[-1]) <= len(rows) and (cu_seqlens.diff() >= valid).all()
        return rows[:encodings] * 2

    def record(work: Work) -> Work:
        recorded.append(work)
        return work

    def encoded(*lengths: int) -> None:
        rows = torch.arange(sum(lengths)).float()[:, None]
        bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
        out = graphs(rows, bounds, bounds.diff(), len(rows))
        assert torch.equal(out, rows * 2)

    graphs = PassGraphs(encode, lambda rows, _: rows, record, limit=2)
    encoded(17)
    encoded(18)  # the same size
    encoded(17)
    assert run == [(17, 1), (18, 1), (18, 1)] and len(graphs) == len(recorded) == 1
    assert graphs.input_bytes == 4 * (2048 + 9 + 8)
    for _ in range(3):
        encoded(4000)
        encoded(*[2] * 9)
    assert len(recorded) == 1 and run[-2:] == [(4000, 1), (18, 9)]
    encoded(5, 12)
    encoded(6, 12)
    for _ in range(3):
        encoded(3)  # beyond the limit
    assert len(graphs) == len(recorded) == 2 and run[-5:] == [(17, 2), (18, 2), (3, 1), (3, 1), (3, 1)]


def test_a_graph_that_cannot_be_recorded_costs_no_result(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The recorder tells it once, and gives up for everybody."""
    tried: list[Work] = []

    def capture(work: Work) -> Work:
        tried.append(work)
        raise torch.AcceleratorError("not permitted")

    record = CudaGraphCapture()
    monkeypatch.setattr(record, "_capture", capture)
    bounds = torch.tensor([0, 5], dtype=torch.int32)
    for graphs in [PassGraphs(lambda rows, *_: rows * 2, lambda rows, _: rows, record) for _ in range(2)]:
        for length in (5, 5, 5, 4, 4, 4):
            rows = torch.arange(length).float()[:, None]
            assert torch.equal(graphs(rows, bounds.clamp(max=length), bounds[1:].clamp(max=length), length), rows * 2)
        assert len(tried) == 1 and len(graphs) == 0
    assert len(caplog.records) == 1 and "not permitted" in caplog.text


def test_rows_find_their_segment_and_those_beyond_the_last_one() -> None:
    bounds = torch.tensor([0, 3, 3, 5, 5], dtype=torch.int32)
    assert segment_of(torch.arange(7), bounds).tolist() == [0, 0, 0, 2, 2, 3, 3]
    assert segment_positions(bounds, 7).tolist() == [0, 1, 2, 0, 1, 0, 1]
