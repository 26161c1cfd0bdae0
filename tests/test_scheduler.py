"""The scheduler on plain data: first come first served within the pools, no request waits for ever, all is returned."""

from __future__ import annotations

import pytest

from seamless_engine import CapacityError
from seamless_engine.job import Job, Stage
from seamless_engine.scheduler import Scheduler, SlowStart
from support.schedules import job, scheduler


def submitted(plan: Scheduler, *jobs: Job) -> list[Job]:
    for one in jobs:
        plan.submit(one)
    return list(jobs)


def admitted(plan: Scheduler) -> list[Job]:
    return [one for one, _ in plan.admit()]


def test_slow_start_allows_few_then_more_and_never_stalls() -> None:
    start, taken, most = SlowStart(), 0, []
    for answered in range(20):
        while taken < 1000 and start.allows(taken, answered):
            taken += 1
        assert taken > answered
        most.append(taken)
    assert [*dict.fromkeys(most)] == [8, 64, 512]


def test_admit_takes_requests_in_order() -> None:
    plan = scheduler(seqs=4)
    jobs = submitted(plan, job(), job(num_beams=3), job(num_beams=4), job(num_beams=4))
    assert admitted(plan) == jobs[:2]
    assert admitted(plan) == []
    for one in jobs[1::-1]:
        plan.retire(one, synthesizes=False)
    assert admitted(plan) == jobs[2:3]
    assert [one.stage for one in jobs] == [Stage.FINISHED, Stage.FINISHED, Stage.DECODING, Stage.WAITING]


@pytest.mark.parametrize("scarce", ["seqs", "blocks"])
def test_admit_takes_a_request_that_fits_before_one_that_does_not(scarce: str) -> None:
    plan = scheduler(blocks=12, seqs=4)  # a small request takes 3 blocks
    large = job(num_beams=4, max_new_tokens=1) if scarce == "seqs" else job(encoder_length=160)
    first, *others = submitted(plan, job(), large, job(), job())
    assert admitted(plan) == [first, *others[1:]]
    assert large.overtaken == 2 and others[1].overtaken == 0


@pytest.mark.parametrize("lookahead,expected", [(0, 0), (2, 0), (3, 1), (9, 1)])
def test_admit_looks_ahead_as_far_as_lookahead(lookahead: int, expected: int) -> None:
    plan = scheduler(seqs=4, lookahead=lookahead)
    _, *waiting = submitted(plan, job(), *[job(num_beams=4) for _ in range(3)], job())
    assert admitted(plan) == [plan.decoding[0], *waiting[3:]][: 1 + expected]


@pytest.mark.parametrize("patience", [1, 3, 16])
def test_admit_does_not_starve_a_huge_request(patience: int) -> None:
    """Small ones come without end and would always fit: the huge one is overtaken `patience` times, then it is next."""
    plan = scheduler(seqs=4, patience=patience)
    submitted(plan, job(), job())
    admitted(plan)
    (huge,) = submitted(plan, job(num_beams=4))
    turns = 0
    while huge.stage is Stage.WAITING:
        submitted(plan, job())
        admitted(plan)
        if plan.decoding != [huge]:
            plan.retire(plan.decoding[0], synthesizes=False)
        turns += 1
        assert turns < patience + 5
    assert huge.overtaken == patience and plan.decoding == [huge]
    assert len(plan.waiting) == 3  # it waited for two to end
    plan.retire(huge, synthesizes=False)
    waiting = list(plan.waiting)
    assert admitted(plan) == waiting and plan.waiting == []


def test_admit_does_not_starve_small_requests_behind_huge_ones() -> None:
    """Huge ones come without end: a small one goes beside one that leaves it room, a larger one when it is its turn."""
    plan = scheduler(seqs=4, patience=3)
    before = submitted(plan, *[job(num_beams=3) for _ in range(5)])
    assert admitted(plan) == before[:1]
    (small,) = submitted(plan, job())
    assert admitted(plan) == [small]
    (larger,) = submitted(plan, job(num_beams=2))
    for _ in range(6):
        assert larger.stage is Stage.WAITING
        (after,) = submitted(plan, job(num_beams=3))
        plan.retire(plan.decoding[0], synthesizes=False)
        admitted(plan)
    assert (
        larger.stage is Stage.DECODING
        and after.stage is Stage.WAITING
        and not any(one in plan.waiting for one in before)
    )


def test_admit_keeps_the_token_budget_but_takes_a_large_request_alone() -> None:
    plan = scheduler(max_encoder_tokens=25)
    jobs = submitted(plan, job(10), job(10), job(10), job(60), job(5))
    assert [admitted(plan) for _ in range(4)] == [jobs[:2], jobs[2:3], jobs[3:4], jobs[4:]]


def test_admit_waits_while_sequences_are_busy_but_not_for_long() -> None:
    plan = scheduler(seqs=8, max_encoder_tokens=100, patience=5)
    submitted(plan, *[job() for _ in range(7)])
    assert len(admitted(plan)) == 7
    (one,) = submitted(plan, job(10))
    assert [len(plan.admit()) for _ in range(6)] == [0, 0, 0, 0, 0, 1]
    plan.drop(one)
    (large,) = submitted(plan, job(25))  # a quarter of a pass
    assert admitted(plan) == [large]
    plan.drop(large)
    submitted(plan, job(10))
    assert admitted(plan) == []
    plan.drop(plan.decoding[0])  # a quarter of the sequences is free
    assert len(admitted(plan)) == 1


def test_submit_refuses_a_request_that_can_never_fit_with_the_number_needed() -> None:
    plan = scheduler(blocks=10, seqs=4)
    submitted(plan, job(encoder_length=32, num_beams=4, max_new_tokens=14 + 16))  # 2 + 4 · 2 blocks: all there are
    assert len(admitted(plan)) == 1
    with pytest.raises(CapacityError, match="needs 11 blocks of 16 slots .33 encoder states, 4 beams of up to 32"):
        plan.submit(job(encoder_length=33, num_beams=4, max_new_tokens=30))
    with pytest.raises(CapacityError, match="needs 14 blocks"):
        plan.submit(job(encoder_length=32, num_beams=4, max_new_tokens=31))
    with pytest.raises(CapacityError, match="5 beams or samples"):
        plan.submit(job(num_beams=5))
    with pytest.raises(CapacityError, match="6 beams or samples"):
        plan.submit(job(searches=6))
    assert plan.waiting == [] and len(plan.decoding) == 1


def test_leaving_returns_cancelled_and_late_requests_of_every_stage() -> None:
    plan = scheduler(seqs=6)
    jobs = submitted(plan, *[job(deadline=deadline) for deadline in (None, 5.0, 7.0) for _ in range(2)])
    speaking, decoding = jobs[::2], jobs[1::2]
    assert admitted(plan) == jobs
    for one in speaking:
        plan.retire(one, synthesizes=True)
    waiting = submitted(plan, *[job(deadline=deadline) for deadline in (None, 5.0, 7.0)])
    assert plan.leaving(4.9) == []
    assert set(plan.leaving(5.0)) == {speaking[1], decoding[1], waiting[1]}
    for stage in (speaking, decoding, waiting):
        stage[0].cancelled = True
    left = plan.leaving(6.9)
    assert set(left) == {stage[i] for stage in (speaking, decoding, waiting) for i in (0, 1)}
    for one in left:
        plan.drop(one)
    assert plan.leaving(6.9) == []
    assert (plan.synthesizing, plan.decoding, plan.waiting) == (speaking[2:], decoding[2:], waiting[2:])
    assert all(one.stage is Stage.FINISHED for one in left)
    assert plan.blocks.free_seqs == 5 and plan.blocks.free_blocks == plan.blocks.num_blocks - 3


def test_drop_may_be_called_twice() -> None:
    plan = scheduler()
    (one,) = submitted(plan, job())
    for _ in range(2):
        plan.drop(one)
    assert not plan.busy and plan.blocks.free_blocks == plan.blocks.num_blocks


def test_next_synthesis_waits_for_a_full_pass_or_until_nothing_decodes() -> None:
    plan = scheduler(max_synthesis_tokens=50)
    first, second, third, other = submitted(plan, job(), job(), job(), job())
    admitted(plan)
    first.position = second.position = third.position = 30
    plan.retire(first, synthesizes=True)
    assert plan.next_synthesis() == []
    plan.retire(second, synthesizes=True)
    plan.retire(third, synthesizes=True)
    assert plan.next_synthesis() == [first, second]
    assert plan.next_synthesis() == []
    plan.retire(other, synthesizes=False)
    assert plan.next_synthesis() == [third] and not plan.busy


def test_next_synthesis_does_not_wait_for_ever() -> None:
    plan = scheduler(max_synthesis_tokens=50, patience=4)
    first, second, _ = submitted(plan, job(), job(), job())
    admitted(plan)
    plan.retire(first, synthesizes=True)
    turns = []
    for _ in range(9):
        admitted(plan)
        if second.stage is Stage.DECODING:
            plan.retire(second, synthesizes=True)
        turns.append(plan.next_synthesis())
    assert [len(spoken) for spoken in turns] == [0, 0, 0, 2, 0, 0, 0, 0, 0]


def test_wants_more_is_false_when_a_pass_is_waiting() -> None:
    plan = scheduler(seqs=4, max_encoder_tokens=100)
    assert plan.wants_more
    submitted(plan, job(99))
    assert plan.wants_more
    submitted(plan, job(1))
    assert not plan.wants_more
    few = scheduler(seqs=4)
    submitted(few, *[job() for _ in range(4)])
    assert not few.wants_more
