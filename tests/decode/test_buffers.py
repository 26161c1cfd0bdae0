"""The decoding buffers: what a request is given and what it leaves, all of it where it was from the start."""

from __future__ import annotations

import gc
import random
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from seamless_engine import DecodingParams, Engine, EngineConfig, Request
from seamless_engine.decode.block_manager import BLOCK_SIZE, PROMPT_LENGTH, slots_of
from seamless_engine.decode.buffers import Status, Whole
from seamless_engine.decode.device_step import TorchSearch
from seamless_engine.decode.scheduler import Job
from support.driven import all_same, answer
from support.parity import TEXTS, random_request
from support.searches import EOS, LANGUAGE, Searches, clone, known, random_params, tensors
from tolerance import SCORE_ATOL

Checkpoint = Callable[[int], Path]
BY_SLOT = ("token_pool", "log_prob_pool", "state_pool")
SLOT_TABLES = ("own_slots", "slot_table", "finished_table", "cross_table")


def admitted(seed: int) -> tuple[Searches, list[Job]]:
    """Requests of all kinds that came at once, on buffers that others have used."""
    rng = random.Random(seed)
    world = Searches(vocab=50, num_rows=30)
    for _ in range(2):
        for one in world.jobs:
            world.blocks.free(one.serial)
        world.jobs.clear()
        beams = [rng.choice([1, 1, 2, 3, 5]) for _ in range(12)]
        jobs = world.admit([random_params(rng, count, 50, ties=False) for count in beams], lambda: rng.choice([1, 9]))
    return world, jobs


def test_a_request_has_the_slots_of_its_blocks_and_nobody_elses() -> None:
    for seed in range(10):
        world, jobs = admitted(seed)
        buffers = world.buffers
        seen: set[int] = set()
        for one in jobs:
            mine = set(slots_of(world.blocks._blocks[one.serial]))
            cross = buffers.cross_slots(one).tolist()
            own = buffers.own_slots[one.rows, : one.max_length].flatten().tolist()
            assert len(cross) == one.source_length == buffers.cross_length[one.rows[0]]
            assert len(set(cross + own)) == len(cross + own), "a slot twice"
            assert set(cross + own) <= mine
            assert not mine & seen
            seen |= mine
        assert max(seen) < world.blocks.num_blocks * BLOCK_SIZE <= int(buffers.own_slots[buffers.inert, 0])


def test_a_search_begins_at_the_prompt_which_its_first_row_reads_for_all() -> None:
    for seed in range(10):
        world, jobs = admitted(seed)
        buffers = world.buffers
        for one, draw in ((job, draw) for job in jobs for draw in range(job.params.draws)):
            first, *others = rows = one.search_rows(draw)
            assert buffers.rows[first, : len(rows)].tolist() == rows
            assert (buffers.rows[first, len(rows) :] == buffers.inert).all()
            assert buffers.search_of[rows].tolist() == [first] * len(rows)
            prompt = buffers.own_slots[first, :PROMPT_LENGTH]
            assert (buffers.slot_table[rows, :PROMPT_LENGTH] == prompt).all()
            assert (buffers.token[rows] == LANGUAGE).all() and (buffers.score[rows] == 0.0).all()
            assert buffers.status[first] == Status.SEARCHING and buffers.position[first] == 0
            assert not buffers.finished_occupied[rows].any()
            assert buffers.whole[first, Whole.NUM_BEAMS] == len(rows) == 1 + len(others)
            assert buffers.whole[first, Whole.STREAM] == draw * len(rows)


def test_who_is_not_admitted_is_left_alone() -> None:
    """And the inert row stays what it is."""
    for seed in range(10):
        world, jobs = admitted(seed)
        world.blocks.free(jobs[0].serial)
        before = clone(world.buffers)
        newcomers = world.admit([DecodingParams(num_beams=jobs[0].num_rows)], lambda: 5)
        rows = torch.ones(len(before.token), dtype=torch.bool)
        rows[newcomers[0].rows] = False
        for name, tensor in tensors(world.buffers).items():
            same = rows if name not in BY_SLOT else slice(None)
            assert torch.equal(tensor[same], getattr(before, name)[same]), name


def test_admission_can_be_repeated() -> None:
    """A pass that fails is tried again in halves."""
    world, jobs = admitted(3)
    before = clone(world.buffers)
    entries = [(one, world.blocks._blocks[one.serial]) for one in jobs]
    for part in (entries[: len(entries) // 2], entries[len(entries) // 2 :]):
        world.buffers.admit(part)
    for name, tensor in tensors(world.buffers).items():
        assert torch.equal(tensor, getattr(before, name)), name


def finished(params: DecodingParams, seed: int, tokens: int, vocab: int = 60) -> tuple[Searches, Job]:
    """One request, searched to its end among others."""
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    world = Searches(vocab, num_rows=30)
    one, *_ = world.admit([params, *(random_params(rng, b, vocab, ties=False) for b in (2, 1, 4))], lambda: tokens)
    search = TorchSearch(world.buffers)
    while any(world.buffers.status[one.search_rows(draw)[0]] == Status.SEARCHING for draw in range(params.draws)):
        layout = world.layout()
        search.begin(layout, EOS)
        logits = world.logits(layout, generator)
        logits[:, EOS] += 3.0
        search.choose_and_commit(layout, known(logits))
        for job in world.jobs:
            job.position += PROMPT_LENGTH if job.position == 0 else 1
    return world, one


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("beams,wanted", [(1, 1), (4, 1), (4, 4), (5, 3)])
def test_findings_are_the_best_hypotheses_with_their_slots(beams: int, wanted: int, penalty: float) -> None:
    lengths = set()
    for seed in range(4):
        params = DecodingParams(num_beams=beams, num_return_sequences=wanted, length_penalty=penalty)
        world, one = finished(params, seed, tokens=10)
        buffers, found = world.buffers, world.buffers.findings(one)
        assert len(found) == wanted
        assert [f.score for f in found] == sorted((f.score for f in found), reverse=True)
        assert len({tuple(f.tokens) for f in found}) == wanted
        own = set(buffers.own_slots[one.rows, : one.max_length].flatten().tolist())
        for finding in found:
            lengths.add(len(finding.tokens))
            assert len(finding.log_probs) == len(finding.tokens) <= one.max_new_tokens
            assert finding.tokens[-1] == EOS or len(finding.tokens) == one.max_new_tokens
            assert set(finding.slots.tolist()) <= own
            read = buffers.token_pool[finding.slots].tolist()  # by the model: all but the last token
            assert read == [EOS, LANGUAGE, *finding.tokens[:-1]]
            expected = sum(finding.log_probs) / len(finding.tokens) ** penalty
            assert finding.score == pytest.approx(expected, rel=SCORE_ATOL, abs=SCORE_ATOL)
    assert len(lengths) > 1


def test_each_draw_gives_one_finding() -> None:
    params = DecodingParams(do_sample=True, num_return_sequences=4, seed=5)
    world, one = finished(params, 0, tokens=9)
    found = world.buffers.findings(one)
    assert len({tuple(f.tokens) for f in found}) == 4
    assert [int(f.slots[0]) for f in found] == world.buffers.own_slots[one.rows, 0].tolist()


def test_a_search_has_no_more_findings_than_it_could_choose() -> None:
    for kept, expected in (((), []), ((EOS,), [[EOS]])):
        banned = tuple(token for token in range(30) if token not in kept)
        params = DecodingParams(num_beams=3, num_return_sequences=3, suppress_tokens=banned)
        world, one = finished(params, 0, tokens=5, vocab=30)
        assert [finding.tokens for finding in world.buffers.findings(one)] == expected


def made(checkpoint: Checkpoint) -> Engine:
    options = EngineConfig(max_rows=9, num_slots=1600)
    return Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["t2tt"], options=options)


def texts(engine: Engine, seed: int) -> list[Request]:
    rng = random.Random(seed)
    requests = [random_request(rng, engine.languages("t2tt")) for _ in range(60)]
    return [one for one in requests if one.task == "t2tt"]


def held(engine: Engine) -> dict[str, torch.Tensor]:
    """Every tensor that a decode step may keep."""
    runner = engine._runner
    return tensors(runner.buffers) | {"k": runner.pool.k, "v": runner.pool.v, "layout": runner.layouts._fields}


@pytest.mark.parametrize("implementation", ["", "torch"], ids=["preferred", "torch"])
def test_what_is_free_may_hold_anything(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, implementation: str
) -> None:
    """Before every turn all free rows and slots are spoiled: floats are NaN, tables point at slots of NaN."""
    monkeypatch.setenv("SEAMLESS_BACKEND", implementation)
    engine = made(checkpoint)
    requests = texts(engine, 7)
    expected = answer(engine, requests)
    runner = engine._runner
    turns = []

    def spoil(turn: int, jobs: dict[int, Job]) -> None:
        rows = torch.tensor(runner.blocks._free_rows, dtype=torch.int64)
        slots = torch.tensor(slots_of(runner.blocks._free_blocks), dtype=torch.int64)
        if not len(slots) or not len(rows):
            return
        turns.append(turn)
        runner.pool.k[:, slots] = torch.nan
        runner.pool.v[:, slots] = torch.nan
        for name, tensor in tensors(runner.buffers).items():
            if name in SLOT_TABLES:
                garbage = int(slots[0])
            elif name == "status":
                garbage = int(Status.SEARCHING)
            else:
                garbage = torch.nan if tensor.is_floating_point() else True if tensor.dtype == torch.bool else 2**30
            tensor[slots if name in BY_SLOT else rows] = garbage

    assert all_same(answer(engine, requests, meanwhile=spoil), expected)
    assert len(turns) > 10


def alive(*kinds: type) -> list[Any]:
    """All objects of exactly these types."""
    gc.collect()
    return [one for one in gc.get_objects() if type(one) in kinds]


def test_nothing_moves_and_nothing_is_left(checkpoint: Checkpoint) -> None:
    engine = made(checkpoint)
    before = {name: (tensor.data_ptr(), tensor.shape) for name, tensor in held(engine).items()}
    requests = texts(engine, 1)
    engine.generate(requests)
    seen = []
    for _ in range(3):
        engine.generate(requests)
        kinds = [type(one) for one in alive(torch.Tensor, Job)]
        seen.append((kinds.count(torch.Tensor), kinds.count(Job)))
    assert seen[0] == seen[1] == seen[2]
    assert seen[0][1] <= engine.options.max_rows  # the last layout is kept, with its company
    assert {name: (tensor.data_ptr(), tensor.shape) for name, tensor in held(engine).items()} == before


def test_a_step_leaves_nothing_behind(checkpoint: Checkpoint) -> None:
    """While two searches go on there are as many tensors, of as many bytes, and lists and maps are as long."""
    engine = made(checkpoint)
    params = DecodingParams(num_beams=3, min_new_tokens=125, max_new_tokens=125)
    requests = [Request("t2tt", "fra", text=text, src_lang="eng", params=params) for text in TEXTS[:2]]
    seen: list[tuple[int, ...]] = []

    def look(turn: int, jobs: dict[int, Job]) -> None:
        if turn in (70, 95, 120):  # tables are as wide at each
            found = alive(torch.Tensor, list, dict, set, deque)
            tensor_bytes = [one.nbytes for one in found if type(one) is torch.Tensor]
            containers = sum(sys.getsizeof(one) for one in found if type(one) is not torch.Tensor)
            seen.append((len(tensor_bytes), sum(tensor_bytes), containers))

    results = answer(engine, requests, meanwhile=look)
    assert [len(result.tokens) for result in results] == [125, 125]
    assert seen[1] == seen[2]  # the first look makes room for the others
