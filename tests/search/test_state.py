"""The search state: what a request is given, what its hypotheses are, and that the tensors never move."""

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
from seamless_engine.block_manager import BLOCK_SIZE, PROMPT_LENGTH, slots_of
from seamless_engine.job import FinishedHypothesis, Job
from seamless_engine.search.finished import FinishedSearches
from seamless_engine.search.schema import IntParam, Status
from seamless_engine.search.state import SearchState
from seamless_engine.search.torch_search import TorchSearch
from support.driven import all_same, answer
from support.parity import TEXTS, random_request
from support.searches import EOS, LANGUAGE, Searches, clone, known, random_params, tensors
from tolerance import SCORE_ATOL

Checkpoint = Callable[[int], Path]
BY_SLOT = ("token_pool", "log_prob_pool", "state_pool")
SLOT_TABLES = ("slot_mapping", "slot_table", "finished_table", "cross_table")


def admitted(seed: int) -> tuple[Searches, list[Job]]:
    """Requests of all kinds that are admitted together, to a state that others have used."""
    rng = random.Random(seed)
    world = Searches(vocab=50, num_seqs=30)
    for _ in range(2):
        for one in world.jobs:
            world.blocks.free(one.serial)
        world.jobs.clear()
        beams = [rng.choice([1, 1, 2, 3, 5]) for _ in range(12)]
        jobs = world.admit([random_params(rng, count, 50, ties=False) for count in beams], lambda: rng.choice([1, 9]))
    return world, jobs


def test_admit_gives_a_request_the_slots_of_its_own_blocks() -> None:
    for seed in range(10):
        world, jobs = admitted(seed)
        state = world.state
        seen: set[int] = set()
        for one in jobs:
            mine = set(slots_of(world.blocks.blocks_of[one.serial]).tolist())
            cross = state.cross_table[one.beam_ids[0], : one.encoder_length].tolist()
            own = state.slot_mapping[one.beam_ids, : one.max_length].flatten().tolist()
            assert len(cross) == one.encoder_length == state.cross_length[one.beam_ids[0]]
            assert len(set(cross + own)) == len(cross + own), "a slot twice"
            assert set(cross + own) <= mine
            assert not mine & seen
            seen |= mine
        assert max(seen) < world.blocks.num_blocks * BLOCK_SIZE <= int(state.slot_mapping[state.dummy_beam, 0])


def test_admit_starts_a_search_at_the_prompt_that_its_first_beam_reads() -> None:
    for seed in range(10):
        world, jobs = admitted(seed)
        state = world.state
        for one, index in ((job, index) for job in jobs for index in range(job.params.num_searches)):
            first, *others = beams = one.search_beams(index)
            assert state.beam_ids[first, : len(beams)].tolist() == beams
            assert (state.beam_ids[first, len(beams) :] == state.dummy_beam).all()
            assert state.search_of[beams].tolist() == [first] * len(beams)
            prompt = state.slot_mapping[first, :PROMPT_LENGTH]
            assert (state.slot_table[beams, :PROMPT_LENGTH] == prompt).all()
            assert (state.token[beams] == LANGUAGE).all() and (state.score[beams] == 0.0).all()
            assert state.status[first] == Status.SEARCHING and state.position[first] == 0
            assert not state.finished_occupied[beams].any()
            assert state.int_params[first, IntParam.NUM_BEAMS] == len(beams) == 1 + len(others)
            assert state.int_params[first, IntParam.STREAM] == index * len(beams)


def test_admit_modifies_only_what_the_admitted_requests_have() -> None:
    """Not the dummy beam either."""
    for seed in range(10):
        world, jobs = admitted(seed)
        world.blocks.free(jobs[0].serial)
        before = clone(world.state)
        newcomers = world.admit([DecodingParams(num_beams=jobs[0].num_seqs)], lambda: 5)
        others = torch.ones(len(before.token), dtype=torch.bool)
        others[newcomers[0].beam_ids] = False
        for name, tensor in tensors(world.state).items():
            same = others if name not in BY_SLOT else slice(None)
            assert torch.equal(tensor[same], getattr(before, name)[same]), name


def test_admit_can_be_repeated() -> None:
    """A pass that fails is tried again in halves."""
    world, jobs = admitted(3)
    before = clone(world.state)
    entries = [(one, world.blocks.blocks_of[one.serial]) for one in jobs]
    for part in (entries[: len(entries) // 2], entries[len(entries) // 2 :]):
        world.state.admit(part)
    for name, tensor in tensors(world.state).items():
        assert torch.equal(tensor, getattr(before, name)), name


def finished(params: DecodingParams, seed: int, tokens: int, vocab: int = 60) -> tuple[Searches, Job]:
    """A request of these parameters, and others beside it, all searched to their ends."""
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    world = Searches(vocab, num_seqs=30)
    one, *_ = world.admit([params, *(random_params(rng, b, vocab, ties=False) for b in (2, 1, 4))], lambda: tokens)
    search = TorchSearch(world.state)
    while any(
        world.state.status[job.search_beams(i)[0]] == Status.SEARCHING for job in world.jobs for i in job.searching
    ):
        batch = world.batch()
        search.prepare_inputs(batch, EOS)
        logits = world.logits(batch, generator)
        logits[:, EOS] += 3.0
        search.update_state(batch, known(logits))
        for job in world.jobs:
            job.position += PROMPT_LENGTH if job.position == 0 else 1
    return world, one


def hypotheses(state: SearchState, one: Job) -> list[FinishedHypothesis]:
    [found] = FinishedSearches(state, [one]).wait()
    return found


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("beams,wanted", [(1, 1), (4, 1), (4, 4), (5, 3)])
def test_finished_searches_have_the_best_hypotheses_with_their_slots(beams: int, wanted: int, penalty: float) -> None:
    lengths = set()
    for seed in range(4):
        params = DecodingParams(num_beams=beams, num_return_sequences=wanted, length_penalty=penalty)
        world, one = finished(params, seed, tokens=10)
        state, found = world.state, hypotheses(world.state, one)
        assert len(found) == wanted
        assert [f.score for f in found] == sorted((f.score for f in found), reverse=True)
        assert len({tuple(f.tokens) for f in found}) == wanted
        own = set(state.slot_mapping[one.beam_ids, : one.max_length].flatten().tolist())
        for hypothesis in found:
            lengths.add(len(hypothesis.tokens))
            assert len(hypothesis.log_probs) == len(hypothesis.tokens) <= one.max_new_tokens
            assert hypothesis.tokens[-1] == EOS or len(hypothesis.tokens) == one.max_new_tokens
            assert set(hypothesis.slots.tolist()) <= own
            read = state.token_pool[hypothesis.slots].tolist()  # by the decoder: all but the last token
            assert read == [EOS, LANGUAGE, *hypothesis.tokens[:-1]]
            expected = sum(hypothesis.log_probs) / len(hypothesis.tokens) ** penalty
            assert hypothesis.score == pytest.approx(expected, rel=SCORE_ATOL, abs=SCORE_ATOL)
    assert len(lengths) > 1


def test_finished_searches_of_several_requests_have_what_each_has_alone() -> None:
    params = DecodingParams(do_sample=True, num_return_sequences=4, seed=5)
    world, _ = finished(params, 1, tokens=9)
    assert len({one.params.num_beams for one in world.jobs}) > 2
    together = FinishedSearches(world.state, world.jobs).wait()
    for one, found in zip(world.jobs, together, strict=True):
        alone = hypotheses(world.state, one)
        assert list(map(str, found)) == list(map(str, alone)) and len(found) == one.params.num_return_sequences


def test_finished_searches_have_one_hypothesis_of_each_search() -> None:
    params = DecodingParams(do_sample=True, num_return_sequences=4, seed=5)
    world, one = finished(params, 0, tokens=9)
    found = hypotheses(world.state, one)
    assert len({tuple(f.tokens) for f in found}) == 4
    assert [int(f.slots[0]) for f in found] == world.state.slot_mapping[one.beam_ids, 0].tolist()


def test_finished_searches_have_no_more_hypotheses_than_could_be_chosen() -> None:
    for kept, expected in (((), []), ((EOS,), [[EOS]])):
        banned = tuple(token for token in range(30) if token not in kept)
        params = DecodingParams(num_beams=3, num_return_sequences=3, suppress_tokens=banned)
        world, one = finished(params, 0, tokens=5, vocab=30)
        assert [hypothesis.tokens for hypothesis in hypotheses(world.state, one)] == expected


def made(checkpoint: Checkpoint) -> Engine:
    options = EngineConfig(max_num_seqs=9, num_slots=1600)
    return Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["t2tt"], options=options)


def texts(engine: Engine, seed: int) -> list[Request]:
    rng = random.Random(seed)
    requests = [random_request(rng, engine.languages("t2tt")) for _ in range(60)]
    return [one for one in requests if one.task == "t2tt"]


def held(engine: Engine) -> dict[str, torch.Tensor]:
    """Every tensor that a decode step may keep."""
    runner = engine.core.runner
    return tensors(runner.state) | {"k": runner.pool.k, "v": runner.pool.v, "batch": runner.batches.fields}


@pytest.mark.parametrize("implementation", ["", "torch"], ids=["preferred", "torch"])
def test_generate_reads_nothing_of_free_beams_and_slots(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, implementation: str
) -> None:
    """Before every turn all free beams and slots are spoiled: floats are NaN, tables point at slots of NaN."""
    monkeypatch.setenv("SEAMLESS_BACKEND", implementation)
    engine = made(checkpoint)
    requests = texts(engine, 7)
    expected = answer(engine, requests)
    runner = engine.core.runner
    turns = []

    def spoil(turn: int, jobs: dict[int, Job]) -> None:
        beams = torch.tensor(runner.blocks.free_beam_ids, dtype=torch.int64)
        slots = torch.tensor(slots_of(runner.blocks.free_block_ids), dtype=torch.int64)
        if not len(slots) or not len(beams):
            return
        turns.append(turn)
        runner.pool.k[:, slots] = torch.nan
        runner.pool.v[:, slots] = torch.nan
        for name, tensor in tensors(runner.state).items():
            if name in SLOT_TABLES:
                garbage = int(slots[0])
            elif name == "status":
                garbage = int(Status.SEARCHING)
            else:
                garbage = torch.nan if tensor.is_floating_point() else True if tensor.dtype == torch.bool else 2**30
            tensor[slots if name in BY_SLOT else beams] = garbage

    assert all_same(answer(engine, requests, meanwhile=spoil), expected)
    assert len(turns) > 10


def alive(*kinds: type) -> list[Any]:
    """All objects of exactly these types."""
    gc.collect()
    return [one for one in gc.get_objects() if type(one) in kinds]


def test_generate_moves_no_tensor_and_leaves_none_behind(checkpoint: Checkpoint) -> None:
    engine = made(checkpoint)
    before = {name: (tensor.data_ptr(), tensor.shape) for name, tensor in held(engine).items()}
    requests, elsewhere = texts(engine, 1), len(alive(Job))  # those of engines of other tests
    engine.generate(requests)
    seen = []
    for _ in range(3):
        engine.generate(requests)
        kinds = [type(one) for one in alive(torch.Tensor, Job)]
        seen.append((kinds.count(torch.Tensor), kinds.count(Job)))
    assert seen[0] == seen[1] == seen[2]
    assert seen[0][1] - elsewhere <= engine.options.max_num_seqs  # the last batch is kept, with its requests
    assert {name: (tensor.data_ptr(), tensor.shape) for name, tensor in held(engine).items()} == before


def test_a_decode_step_leaves_nothing_behind(checkpoint: Checkpoint) -> None:
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
