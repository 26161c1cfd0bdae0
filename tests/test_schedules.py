"""Ten thousand random schedules and a state machine check the scheduler; both must find each of a list of bugs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from seamless_engine import job as module
from seamless_engine.block_manager import BlockManager
from seamless_engine.job import Job, Stage
from seamless_engine.scheduler import Limits, Scheduler
from support.schedules import World, job, run_schedule

SCHEDULES = 10_000
Patch = pytest.MonkeyPatch


class Schedules(RuleBasedStateMachine):
    @initialize(
        blocks=st.sampled_from([4, 15, 100]),
        seqs=st.sampled_from([2, 6, 15]),
        max_encoder_tokens=st.sampled_from([1, 50, 1000]),
        max_synthesis_tokens=st.sampled_from([1, 30, 100]),
        lookahead=st.integers(0, 2),
        patience=st.sampled_from([1, 2, 5]),
    )
    def start(self, blocks: int, seqs: int, **limits: int) -> None:
        self.world = World(blocks, seqs, Limits(**limits))

    @rule(
        count=st.integers(1, 6),
        encoder_length=st.sampled_from([1, 16, 17, 33]),
        seqs=st.sampled_from([(1, 1), (2, 1), (4, 1), (6, 1), (1, 3)]),
        max_new_tokens=st.sampled_from([14, 15, World.LONGEST]),
        timeout=st.sampled_from([None, None, 2, 6]),
        steps=st.sampled_from([2, 8, World.LONGEST]),
        synthesizes=st.booleans(),
    )
    def arrive(
        self,
        count: int,
        encoder_length: int,
        seqs: tuple[int, int],
        max_new_tokens: int,
        timeout: int | None,
        steps: int,
        synthesizes: bool,
    ) -> None:
        beams, searches = seqs
        deadline = None if timeout is None else self.world.now + timeout
        for i in range(count):
            self.world.arrive(
                job(encoder_length, beams, max_new_tokens, searches, deadline), steps + 2 * i, synthesizes
            )

    @precondition(lambda self: self.world.live)
    @rule(which=st.integers(0, 1000), fails=st.booleans())
    def leave(self, which: int, fails: bool) -> None:
        one = self.world.live[which % len(self.world.live)]
        if fails:
            self.world.fail(one)
        else:
            one.cancelled = True

    @rule(count=st.sampled_from([1, 1, 1, 5]))
    def turn(self, count: int) -> None:
        for _ in range(count):
            self.world.now += 1.0
            self.world.turn()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.drain()


def explore(examples: int, phases: tuple[Phase, ...] = (Phase.generate,)) -> None:
    run_state_machine_as_test(
        Schedules,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            derandomize=True,
            database=None,
            deadline=None,
            phases=phases,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def test_scheduler_keeps_its_invariants_in_random_schedules() -> None:
    ended = overtaken = 0
    for seed in range(SCHEDULES):
        world = run_schedule(seed)
        ended += len(world.ended)
        overtaken += sum(record.passed > 0 for record in world.records.values())
    assert ended > 5 * SCHEDULES and overtaken > SCHEDULES // 10


def test_scheduler_keeps_its_invariants_in_the_state_machine() -> None:
    explore(200, (Phase.generate, Phase.shrink))


@pytest.mark.slow
def test_scheduler_keeps_its_invariants_in_many_more_schedules() -> None:
    explore(4_000, (Phase.generate, Phase.shrink))
    for seed in range(SCHEDULES, 5 * SCHEDULES):
        run_schedule(seed)


def around(patch: Patch, owner: Any, name: str, change: Callable[..., Any]) -> None:
    """Replace a function by `change(the old one, *arguments)`."""
    old = getattr(owner, name)
    patch.setattr(owner, name, lambda *args: change(old, *args))


def with_limits(patch: Patch, **limits: int) -> None:
    def start(old: Any, plan: Scheduler, blocks: BlockManager, given: Limits) -> None:
        old(plan, blocks, dataclasses.replace(given, **limits))

    around(patch, Scheduler, "__init__", start)


def a_beam_is_freed_twice(patch: Patch) -> None:
    def free(old: Any, manager: BlockManager, owner: int) -> None:
        beam = manager.beams_of[owner][0]
        old(manager, owner)
        manager.free_beam_ids.append(beam)

    around(patch, BlockManager, "free", free)


def a_block_is_free_while_it_is_held(patch: Patch) -> None:
    def reserve(old: Any, manager: BlockManager, *asked: int) -> tuple[list[int], list[int]]:
        blocks, beam_ids = old(manager, *asked)
        manager.free_block_ids.append(blocks[-1])
        return blocks, beam_ids

    around(patch, BlockManager, "reserve", reserve)


def a_dropped_request_keeps_its_blocks(patch: Patch) -> None:
    def drop(old: Any, plan: Scheduler, one: Job) -> None:
        if one.stage is Stage.DECODING:
            plan.decoding.remove(one)
            one.stage = Stage.FINISHED
        else:
            old(plan, one)

    around(patch, Scheduler, "drop", drop)


def a_retired_request_goes_on_decoding(patch: Patch) -> None:
    def retire(old: Any, plan: Scheduler, one: Job, synthesizes: bool) -> None:
        old(plan, one, synthesizes)
        plan.decoding.append(one)

    around(patch, Scheduler, "retire", retire)


def an_admitted_request_goes_on_waiting(patch: Patch) -> None:
    def admit(old: Any, plan: Scheduler) -> Any:
        admitted = old(plan)
        plan.waiting += [one for one, _ in admitted[:1]]
        return admitted

    around(patch, Scheduler, "admit", admit)


def overtaking_is_not_counted(patch: Patch) -> None:
    patch.setattr(Scheduler, "_note_overtaken", lambda *_: None)


def the_newest_request_goes_first(patch: Patch) -> None:
    def submit(old: Any, plan: Scheduler, one: Job) -> None:
        old(plan, one)
        plan.waiting.insert(0, plan.waiting.pop())

    around(patch, Scheduler, "submit", submit)


def a_deadline_is_ignored_during_synthesis(patch: Patch) -> None:
    def leaving(old: Any, plan: Scheduler, now: float) -> list[Job]:
        return [one for one in old(plan, now) if one.cancelled or one.stage is not Stage.SYNTHESIZING]

    around(patch, Scheduler, "leaving", leaving)


def a_waiting_request_cannot_be_cancelled(patch: Patch) -> None:
    def leaving(old: Any, plan: Scheduler, now: float) -> list[Job]:
        return [one for one in old(plan, now) if not one.cancelled or one.stage is not Stage.WAITING]

    around(patch, Scheduler, "leaving", leaving)


def the_prompt_takes_no_blocks(patch: Patch) -> None:
    around(patch, module, "blocks_needed", lambda old, source, beams, tokens: old(source, beams, tokens - 2))


def a_token_too_many_is_reserved(patch: Patch) -> None:
    around(patch, module, "blocks_needed", lambda old, source, beams, tokens: old(source, beams, tokens + 1))


def searches_share_their_beams(patch: Patch) -> None:
    def prepare(old: Any, one: Job) -> None:
        old(one)
        one.num_seqs = one.params.num_beams

    around(patch, Job, "__post_init__", prepare)


def a_request_that_can_never_fit_is_accepted(patch: Patch) -> None:
    patch.setattr(Scheduler, "submit", lambda plan, one: plan.waiting.append(one))


def admit_looks_ahead_without_limit(patch: Patch) -> None:
    with_limits(patch, lookahead=10**6)


def an_encoder_pass_takes_all_that_fits(patch: Patch) -> None:
    with_limits(patch, max_encoder_tokens=10**6)


def a_pass_waits_until_sequences_are_free(patch: Patch) -> None:
    def worth_a_pass(old: Any, plan: Scheduler, chosen: list[Job]) -> bool:
        plan._ready = None
        return old(plan, chosen)

    around(patch, Scheduler, "_worth_a_pass", worth_a_pass)


def synthesis_waits_until_nothing_decodes(patch: Patch) -> None:
    def next_synthesis(old: Any, plan: Scheduler) -> list[Job]:
        for one in plan.synthesizing:
            one.since = plan._turn
        return old(plan)

    around(patch, Scheduler, "next_synthesis", next_synthesis)


def a_request_is_synthesized_twice(patch: Patch) -> None:
    def next_synthesis(old: Any, plan: Scheduler) -> list[Job]:
        chosen = old(plan)
        plan.synthesizing += chosen[1:]
        return chosen

    around(patch, Scheduler, "next_synthesis", next_synthesis)


BUGS = (
    a_beam_is_freed_twice,
    a_block_is_free_while_it_is_held,
    a_dropped_request_keeps_its_blocks,
    a_retired_request_goes_on_decoding,
    an_admitted_request_goes_on_waiting,
    overtaking_is_not_counted,
    the_newest_request_goes_first,
    a_deadline_is_ignored_during_synthesis,
    a_waiting_request_cannot_be_cancelled,
    the_prompt_takes_no_blocks,
    a_token_too_many_is_reserved,
    searches_share_their_beams,
    a_request_that_can_never_fit_is_accepted,
    admit_looks_ahead_without_limit,
    an_encoder_pass_takes_all_that_fits,
    a_pass_waits_until_sequences_are_free,
    synthesis_waits_until_nothing_decodes,
    a_request_is_synthesized_twice,
)
every_bug = pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
FOUND = (AssertionError, KeyError, ValueError)


@every_bug
def test_random_schedules_find(bug: Callable[[Patch], None], monkeypatch: Patch) -> None:
    bug(monkeypatch)
    with pytest.raises(FOUND):
        for seed in range(SCHEDULES):
            run_schedule(seed)


@every_bug
def test_the_state_machine_finds(bug: Callable[[Patch], None], monkeypatch: Patch) -> None:
    bug(monkeypatch)
    with pytest.raises(FOUND):
        explore(3000)
