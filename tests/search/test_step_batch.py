"""The batch of a step: its queries and searches, kept while the same searches go on, and padding without effect."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from seamless_engine import DecodingParams, Engine, EngineConfig
from seamless_engine.block_manager import BLOCK_SIZE
from seamless_engine.cuda_graphs import table_width
from seamless_engine.job import Job
from seamless_engine.search.schema import Status
from seamless_engine.search.step_batch import BatchBuilder, StepBatch
from support.driven import all_same, answer
from support.parity import random_request
from support.schedules import job

Checkpoint = Callable[[int], Path]
FIELDS = ("query_beam", "query_offset", "search_id", "search_query", "search_active", "request_id", "cu_queries")


def eights(count: int) -> int:
    return -(-count // 8) * 8


def running(beam_ids: list[int], position: int, num_beams: int = 1, searches: int = 1) -> Job:
    one = job(num_beams=num_beams, searches=searches, max_new_tokens=200)
    one.beam_ids, one.position = beam_ids, position
    return one


def fields(batch: StepBatch) -> dict[str, list[int]]:
    return {name: getattr(batch, name).tolist() for name in FIELDS}


def mixed_jobs() -> list[Job]:
    """Three beams that go on, a hypothesis that begins, three samples of which one has ended, beams that begin."""
    jobs = [running([7, 2, 5], 9, num_beams=3), running([0], 0), running([1, 3, 8], 4, searches=3)]
    jobs[2].searching = [0, 2]
    return [*jobs, running([4, 6], 0, num_beams=2)]


def test_batch_keeps_the_queries_of_a_request_together_and_reads_the_prompt_by_its_first_beam() -> None:
    batch = BatchBuilder(10, 202, torch.device("cpu")).batch(mixed_jobs())
    assert fields(batch) == {
        "query_beam": [7, 2, 5, 0, 0, 1, 8, 4, 4],
        "query_offset": [0, 0, 0, 0, 1, 0, 0, 0, 1],
        "search_id": [7, 0, 1, 8, 4],
        "search_query": [0, 4, 5, 6, 8],
        "search_active": [3, 1, 1, 1, 1],
        "request_id": [7, 0, 1, 4],
        "cu_queries": [0, 3, 5, 7, 9],
    }
    assert [(one.beam_ids[0], index) for one, index in batch.searches] == [(7, 0), (0, 0), (1, 0), (1, 2), (4, 0)]
    assert batch.graph_key.beams == 3 and batch.graph_key.needs_logits == (5, 6)


def test_batch_leaves_out_the_choice_of_requests_that_choose_apart() -> None:
    jobs, device = mixed_jobs(), torch.device("cpu")
    every, batch = (BatchBuilder(10, 202, device, all_choose=choose).batch(jobs) for choose in (True, False))
    chosen = {"search_id": [7, 0, 4], "search_query": [0, 4, 8], "search_active": [3, 1, 1]}
    assert fields(batch) == fields(every) | chosen
    assert [one for one, _ in batch.searches] == [jobs[0], jobs[1], jobs[3]]
    assert batch.graph_key == replace(every.graph_key, needs_logits=())
    alone = BatchBuilder(10, 202, device, all_choose=False).batch(jobs[2:3])
    assert alone.searches == [] and alone.graph_key.beams == 0 and alone.query_beam.tolist() == [1, 8]


def test_chooses_apart_is_true_for_what_changes_the_shape_of_a_step() -> None:
    plain = DecodingParams(num_beams=4, min_new_tokens=3, length_penalty=2.0, early_stopping=True)
    apart = {
        "do_sample": True,
        "repetition_penalty": 1.1,
        "no_repeat_ngram_size": 2,
        "bad_words_ids": ((5, 6),),
        "suppress_tokens": (5,),
        "block_unk": True,
    }

    def job_of(params: DecodingParams) -> Job:
        return replace(job(), params=params, bad_words=params.bad_words(3, 1))

    assert not job_of(plain).chooses_apart
    for name, value in apart.items():
        assert job_of(replace(plain, **{name: value})).chooses_apart, name


def test_batch_rounds_up_the_widths_of_its_tables() -> None:
    builder = BatchBuilder(10, 202, torch.device("cpu"), width=table_width)
    jobs = [running([0], 9), running([1], 100)]
    for length, width in ((512, 512), (513, 4096)):
        jobs[0].encoder_length = length
        key = builder.batch(jobs).graph_key
        assert (key.width, key.source_width) == (202, width)
    assert [table_width(length) for length in (1, 512, 513, 4096, 4097)] == [512, 512, 4096, 4096, 32768]


def test_batch_pads_with_the_dummy_beam_which_chooses_nothing() -> None:
    jobs = mixed_jobs()
    plain = fields(BatchBuilder(10, 202, torch.device("cpu")).batch(jobs))
    builder = BatchBuilder(10, 202, torch.device("cpu"), eights)
    builder.batch([running([9], 5)])
    padded = fields(builder.batch(jobs))  # over what was there before
    dummy = {"query_beam": 10, "search_id": 10, "request_id": 10, "cu_queries": 9}
    for name, values in padded.items():
        assert len(values) == 16 + (name == "cu_queries")
        assert values[: len(plain[name])] == plain[name]
        assert set(values[len(plain[name]) :]) == {dummy.get(name, 0)}


def test_batch_is_kept_while_the_same_searches_go_on() -> None:
    builder = BatchBuilder(10, 202, torch.device("cpu"), width=eights)
    one, other = running([0, 1], 0, num_beams=2), running([2, 3, 4], 5, searches=3)
    seen: list[StepBatch] = []

    def is_new(*jobs: Job) -> bool:
        batch = builder.batch(list(jobs))
        new = not seen or batch is not seen[-1]
        seen.append(batch)
        return new

    assert is_new(one)
    one.position = 2
    assert is_new(one)  # one query a beam from now on
    one.position = 3
    assert not is_new(one)
    assert is_new(one, other)  # a request joins
    one.position, other.position = 4, 6
    assert not is_new(one, other)
    other.searching.remove(1)
    assert is_new(one, other)  # a search has ended
    one.position = 15
    assert is_new(one, other) and seen[-1].graph_key.width == 24  # the tables are wider
    assert is_new(one)  # a request left
    successor = running([0, 1], 15, num_beams=2)
    assert is_new(successor)  # the same beams, another request


def test_batch_never_moves_its_tensors() -> None:
    """A graph that reads them serves every batch of the same shape."""
    builder = BatchBuilder(10, 202, torch.device("cpu"), eights)
    batches = [builder.batch(jobs) for jobs in (mixed_jobs(), mixed_jobs()[:1], mixed_jobs()[1:], [running([3], 70)])]
    batches.append(builder.dummy(16, 5))
    for name in FIELDS:
        assert len({getattr(batch, name).data_ptr() for batch in batches}) == 1
        assert all(getattr(batch, name).dtype == torch.int32 for batch in batches)


def test_batch_has_room_for_every_beam_at_its_prompt() -> None:
    for bucket in (None, eights):
        batch = BatchBuilder(5, 202, torch.device("cpu"), bucket).batch([running([i], 0) for i in range(5)])
        assert batch.query_beam.tolist()[:10] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


@pytest.fixture(params=["", "torch"], ids=["preferred", "torch"])
def engine(request: pytest.FixtureRequest, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setenv("SEAMLESS_BACKEND", request.param)
    options = EngineConfig(max_num_seqs=9, num_slots=640)
    return Engine.from_pretrained(checkpoint(1), device="cpu", tasks=["t2tt"], options=options)


def pools(engine: Engine) -> dict[str, torch.Tensor]:
    """Everything that has a place for each slot, slots first."""
    runner = engine.core.runner
    keys, values = (pool.transpose(0, 1) for pool in (runner.pool.k, runner.pool.v))
    state = runner.state
    return {"k": keys, "v": values, "states": state.state_pool, "tokens": state.token_pool} | {
        "log_probs": state.log_prob_pool
    }


def test_generate_with_padding_changes_no_result_and_no_other_slot(engine: Engine) -> None:
    """Before every step the dummy beam's slots hold NaN; after it, only the slots of its queries have changed."""
    runner, dummy = engine.core.runner, engine.options.max_num_seqs
    rng = random.Random(4)
    requests = [random_request(rng, engine.languages("t2tt")) for _ in range(60)]
    requests = [one for one in requests if one.task == "t2tt"]
    expected = answer(engine, requests)
    runner.batches = BatchBuilder(dummy, runner.batches.max_length, runner.device, eights)
    dummy_slots = torch.arange(runner.blocks.num_blocks * BLOCK_SIZE, len(runner.state.token_pool))
    assert len(dummy_slots) == BLOCK_SIZE
    padded = 0

    def step(batch: StepBatch) -> torch.Tensor:
        nonlocal padded
        beams = batch.query_beam.long()
        padded += int((beams == dummy).sum())
        search = runner.state.search_of[beams].long()
        position = runner.state.position[search] + batch.query_offset
        written = runner.state.slot_mapping[beams[beams != dummy], position[beams != dummy]]
        assert not set(written.tolist()) & set(dummy_slots.tolist())
        for pool in pools(engine).values():
            pool[dummy_slots] = torch.nan if pool.is_floating_point() else 77
        before = {name: pool.clone() for name, pool in pools(engine).items()}
        status = runner.run_step(batch)
        mine = torch.cat([written.long(), dummy_slots])
        for name, pool in pools(engine).items():
            pool, old = (x.reshape(len(x), -1).nan_to_num(nan=1e30) for x in (pool, before[name]))
            changed = (pool != old).any(1).nonzero()[:, 0]
            assert set(changed.tolist()) <= set(mine.tolist()), name
        assert runner.state.status[dummy] == Status.OVER and runner.state.search_of[dummy] == dummy
        return status

    runner.step = step
    assert all_same(answer(engine, requests), expected)
    assert padded > 50
