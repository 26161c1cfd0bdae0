"""A recorded encoder pass is the pass: rounded up to the size that was recorded, its own rows have the same bits."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seamless_engine import Engine, EngineConfig, Request
from seamless_engine.decode.step_graphs import CudaRecorder, Work
from seamless_engine.models.layers import segment_of, segment_positions
from seamless_engine.pass_graphs import PassGraphs
from seamless_engine.prepared import Features
from support.graphs import played_back
from support.parity import random_request, same

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Checkpoint = Callable[[int], Path]


class Played:
    """Records, and counts how often what it recorded is launched."""

    def __init__(self) -> None:
        self.record = CudaRecorder() if DEVICE == "cuda" else played_back
        self.launched = 0

    def __call__(self, work: Work) -> Work:
        replay = self.record(work)

        def counted() -> torch.Tensor:
            self.launched += 1
            return replay()

        return counted


@torch.inference_mode()
def poison(graphs: object) -> None:
    """What earlier passes left is nobody's to read."""
    assert isinstance(graphs, PassGraphs)
    if graphs._inputs is not None:
        rows = graphs._inputs.rows
        rows.fill_(torch.nan if rows.is_floating_point() else 1)


@pytest.mark.parametrize("seed", range(2))
def test_graphs_and_the_host_give_the_same_results(checkpoint: Checkpoint, seed: int) -> None:
    options = EngineConfig(max_rows=24, cuda_graphs=False)
    engine = Engine.from_pretrained(checkpoint(seed), device=DEVICE, options=options, dtype="float32")
    rng = random.Random(seed)
    requests = [random_request(rng, engine.languages("s2st")) for _ in range(12)]
    rows = torch.randn(31, 160, generator=torch.Generator().manual_seed(seed))
    requests += [Request("s2tt", "fra", audio=Features(rows[:count], valid)) for count, valid in ((31, 30), (2, 2))]
    expected = engine.generate(requests)
    assert not any(result.error for result in expected)
    played = Played()
    engine._runner.graph_passes(played)
    for company in (1, 1, 2, 3, 5, 14):
        for start in range(0, len(requests), company):
            results = engine.generate(requests[start : start + company])
            assert all(same(a, b) for a, b in zip(expected[start:], results, strict=False))
            poison(engine._runner.encode_rows)
            poison(engine._runner.encode_tokens)
    assert played.launched > len(requests)


@pytest.mark.parametrize("backend", ["triton"], indirect=True)
def test_the_kernels_leave_alone_what_no_segment_has(checkpoint: Checkpoint, backend: str) -> None:
    options = EngineConfig(max_rows=8, num_slots=512, cuda_graphs=False)
    runner = Engine.from_pretrained(checkpoint(0), device=DEVICE, options=options, dtype="float32")._runner
    rows = torch.randn(19, 160, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    bounds, valid = (torch.tensor(numbers, dtype=torch.int32, device=DEVICE) for numbers in ([0, 12, 19], [12, 6]))
    tokens = torch.arange(3, 21, device=DEVICE)
    lengths = torch.tensor([18], dtype=torch.int32, device=DEVICE)
    both = torch.tensor([0, 18], dtype=torch.int32, device=DEVICE)
    with torch.inference_mode():
        expected = runner._encode_rows(rows, bounds, valid, 3), runner._encode_tokens(tokens, both, lengths, 18)
        runner.graph_passes(Played())
        for _ in range(4):
            found = runner.encode_rows(rows, bounds, valid, 3), runner.encode_tokens(tokens, both, lengths, 18)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
            poison(runner.encode_rows)


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
    for _ in range(3):
        encoded(4000)
        encoded(*[2] * 9)
    assert len(recorded) == 1 and run[-2:] == [(4000, 1), (18, 9)]
    encoded(5, 12)
    encoded(6, 12)
    for _ in range(3):
        encoded(3)  # beyond the limit
    assert len(graphs) == len(recorded) == 2 and run[-5:] == [(17, 2), (18, 2), (3, 1), (3, 1), (3, 1)]


def test_a_graph_for_which_there_is_no_memory_costs_no_result() -> None:
    tried: list[Work] = []

    def record(work: Work) -> Work:
        tried.append(work)
        raise torch.OutOfMemoryError("no room")

    graphs = PassGraphs(lambda rows, *_: rows * 2, lambda rows, _: rows, record)
    bounds = torch.tensor([0, 5], dtype=torch.int32)
    for length in (5, 5, 5, 4, 4, 4):
        rows = torch.arange(length).float()[:, None]
        assert torch.equal(graphs(rows, bounds.clamp(max=length), bounds[1:].clamp(max=length), length), rows * 2)
    assert len(tried) == 1 and len(graphs) == 0


def test_rows_find_their_segment_and_those_beyond_the_last_one() -> None:
    bounds = torch.tensor([0, 3, 3, 5, 5], dtype=torch.int32)
    assert segment_of(torch.arange(7), bounds).tolist() == [0, 0, 0, 2, 2, 3, 3]
    assert segment_positions(bounds, 7).tolist() == [0, 1, 2, 0, 1, 0, 1]
