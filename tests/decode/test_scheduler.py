"""The scheduler on plain data: first come first served, within the pools, and everything comes back."""

from __future__ import annotations

import random

import pytest

from seamless_engine import CapacityError, DecodingParams, Request, Result
from seamless_engine.decode.block_manager import BlockManager
from seamless_engine.decode.scheduler import Job, Scheduler
from seamless_engine.request import Stage


def job(source_length: int = 10, num_beams: int = 1, max_new_tokens: int = 20, draws: int = 1) -> Job:
    params = DecodingParams(num_beams=num_beams, do_sample=draws > 1, num_return_sequences=draws)
    return Job(
        request=Request("t2tt", "fra", text="x", src_lang="eng"),
        params=params,
        result=Result(0, "t2tt", "fra"),
        source=[5] * source_length,
        source_rows=source_length,
        source_length=source_length,
        max_new_tokens=max_new_tokens,
        language_id=9,
        voice=None,
        started=0.0,
    )


def scheduler(blocks: int = 100, rows: int = 10, encode_rows: int = 1000, speak_tokens: int = 50) -> Scheduler:
    return Scheduler(BlockManager(blocks, rows), encode_rows, speak_tokens)


def test_requests_are_admitted_in_order_and_never_past_one_that_waits() -> None:
    plan = scheduler(rows=4)
    jobs = [job(), job(num_beams=5 - 2), job(num_beams=4), job()]
    for one in jobs:
        plan.submit(one)
    assert [one for one, _ in plan.admit()] == jobs[:2]
    assert plan.admit() == []  # four beams do not fit beside four rows, and the last does not overtake them
    plan.retire(jobs[1], speaks=False)
    plan.retire(jobs[0], speaks=False)
    assert [one for one, _ in plan.admit()] == jobs[2:3]


def test_an_encoder_pass_keeps_its_budget_but_takes_a_large_one_alone() -> None:
    plan = scheduler(encode_rows=25)
    jobs = [job(10), job(10), job(10), job(60)]
    for one in jobs:
        plan.submit(one)
    assert [len(plan.admit()) for _ in range(3)] == [2, 1, 1]


def test_what_can_never_fit_is_refused_with_the_number_needed() -> None:
    plan = scheduler(blocks=10, rows=4)
    plan.submit(job(source_length=32, num_beams=4, max_new_tokens=14 + 16))  # 2 + 4 · 2 blocks: all there are
    with pytest.raises(CapacityError, match="needs 11 blocks"):
        plan.submit(job(source_length=33, num_beams=4, max_new_tokens=30))
    with pytest.raises(CapacityError, match="5 beams or draws"):
        plan.submit(job(num_beams=5))
    with pytest.raises(CapacityError, match="6 beams or draws"):
        plan.submit(job(draws=6))


def test_speech_waits_for_a_full_pass_or_for_nothing_else_to_do() -> None:
    plan = scheduler(speak_tokens=50)
    first, second, other = job(), job(), job()
    for one in (first, second, other):
        plan.submit(one)
    plan.admit()
    first.position = second.position = 30
    plan.retire(first, speaks=True)
    assert plan.next_speech() == []
    plan.retire(second, speaks=True)
    assert plan.next_speech() == [first, second]
    plan.retire(other, speaks=True)
    assert plan.next_speech() == [other] and not plan.busy


def test_random_schedules_give_everything_back() -> None:
    for seed in range(100):
        rng = random.Random(seed)
        plan = scheduler(blocks=rng.randint(12, 60), rows=rng.randint(4, 12), encode_rows=rng.choice([1, 30, 1000]))
        coming = [job(rng.randint(1, 40), rng.randint(1, 4), rng.randint(1, 30)) for _ in range(30)]
        done = 0
        while coming or plan.busy:
            if coming and rng.random() < 0.5:
                plan.submit(coming.pop())
            plan.admit()
            for one in list(plan.decoding):
                one.position += 1
                if rng.random() < 0.2:
                    plan.retire(one, speaks=rng.random() < 0.5)
                    done += one.stage is Stage.FINISHED
                elif rng.random() < 0.05:
                    plan.drop(one)
                    done += 1
            if plan.waiting and rng.random() < 0.05:
                plan.drop(plan.waiting[-1])
                done += 1
            done += len(plan.next_speech())
            plan.blocks.check_integrity()
        assert done == 30
        assert plan.blocks.free_blocks == plan.blocks.num_blocks and plan.blocks.free_rows == plan.blocks.num_rows
