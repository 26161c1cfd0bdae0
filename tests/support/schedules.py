"""Schedules without a model: requests arrive, end, fail, are cancelled and time out, and every invariant is checked.

`World` plays the engine's loop around a scheduler. It keeps its own record of every request: its stage, its blocks and
beams, and whether it has ended.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass

from seamless_engine import CapacityError, DecodingParams, Request, Result
from seamless_engine.block_manager import BlockManager
from seamless_engine.job import Job, Stage
from seamless_engine.scheduler import Limits, Scheduler

_REQUEST = Request("t2tt", "fra", text="x", src_lang="eng")


@functools.cache
def _params(num_beams: int, searches: int) -> DecodingParams:
    return DecodingParams(num_beams=num_beams, do_sample=searches > 1, num_return_sequences=searches)


def job(
    encoder_length: int = 10,
    num_beams: int = 1,
    max_new_tokens: int = 20,
    searches: int = 1,
    deadline: float | None = None,
) -> Job:
    return Job(
        request=_REQUEST,
        params=_params(num_beams, searches),
        result=Result(0, "t2tt", "fra"),
        source=None,
        num_tokens=encoder_length,
        encoder_length=encoder_length,
        max_new_tokens=max_new_tokens,
        language_id=9,
        voice=None,
        started=0.0,
        deadline=deadline,
    )


def scheduler(
    blocks: int = 100, seqs: int = 10, max_encoder_tokens: int = 1000, max_synthesis_tokens: int = 50, **limits: int
) -> Scheduler:
    return Scheduler(BlockManager(blocks, seqs), Limits(max_encoder_tokens, max_synthesis_tokens, **limits))


def seqs_of(one: Job) -> int:
    return one.params.num_beams * one.params.num_searches


def blocks_of(one: Job) -> int:
    """⌈source / 16⌉ and ⌈(prompt + generation) / 16⌉ of every beam, written a second time."""
    return -(-one.encoder_length // 16) + seqs_of(one) * -(-(2 + one.max_new_tokens) // 16)


@dataclass(eq=False)
class Record:
    """What `World` knows of one request."""

    order: int  # of arrival
    last_turn: int  # by which it has left the queue, whatever comes later
    steps: int  # until its search is over
    synthesizes: bool
    passed: int = 0  # later ones that were admitted before it
    since: int = 0  # the turn at which it began to wait for a synthesis pass
    blocks: tuple[int, ...] = ()
    beam_ids: tuple[int, ...] = ()


class World:
    """Raises AssertionError at the first step after which something does not hold."""

    LONGEST = 24  # max_new_tokens of any request

    def __init__(self, num_blocks: int, num_seqs: int, limits: Limits) -> None:
        self.num_blocks, self.num_seqs, self.limits = num_blocks, num_seqs, limits
        self.scheduler = Scheduler(BlockManager(num_blocks, num_seqs), limits)
        self.waiting: list[Job] = []
        self.decoding: list[Job] = []
        self.synthesizing: list[Job] = []
        self.records: dict[Job, Record] = {}
        self.ended: list[Job] = []
        self.now = 0.0
        self.turns = 0
        self._held_back = 0  # turns in a row without a pass although the oldest request fits

    @property
    def live(self) -> list[Job]:
        return [*self.waiting, *self.decoding, *self.synthesizing]

    def arrive(self, one: Job, steps: int, synthesizes: bool) -> None:
        """It would end after `steps` tokens, or at its limit."""
        blocks, seqs = blocks_of(one), seqs_of(one)
        try:
            self.scheduler.submit(one)
        except CapacityError as error:
            assert blocks > self.num_blocks or seqs > self.num_seqs, f"refused, and fits: {error}"
            assert str(seqs if seqs > self.num_seqs else blocks) in str(error)
            return
        assert blocks <= self.num_blocks and seqs <= self.num_seqs, "a request that can never fit was accepted"
        # Decoding, older and overtaking requests may go first. At worst they run one after another.
        ahead = self.num_seqs + len(self.waiting) + self.limits.patience + self.num_seqs
        last = self.turns + (ahead + 1) * (self.LONGEST + 1)
        self.records[one] = Record(len(self.records), last, min(steps, one.max_new_tokens), synthesizes)
        self.waiting.append(one)
        self.check()

    def fail(self, one: Job) -> None:
        """A pass or a decode step of `one` raised an error."""
        self.scheduler.drop(one)
        self._end(one)
        self.check()

    def turn(self) -> None:
        """What `Core` does in one turn."""
        self.turns += 1
        late = [one for one in self.live if one.cancelled or (one.deadline is not None and one.deadline <= self.now)]
        assert self.scheduler.leaving(self.now) == late
        for one in late:
            self.scheduler.drop(one)
            self._end(one)
        self._admit()
        for one in list(self.decoding):
            assert one.searching == list(range(one.params.num_searches))
            one.position += 2 if one.position == 0 else 1
            if one.position > self.records[one].steps:
                self._retire(one)
        self._synthesize()
        self.check()

    def drain(self) -> None:
        """Run until nothing is left, in a bounded number of turns. Then all is free and every request ended once."""
        last = self.turns + (len(self.live) + 1) * (self.LONGEST + 2)  # one after another, each with a synthesis pass
        while self.live or self.scheduler.busy:
            assert self.turns < last, f"{len(self.live)} requests do not end"
            self.turn()
        assert len(self.ended) == len(self.records)
        assert self.scheduler.blocks.free_blocks == self.num_blocks
        assert self.scheduler.blocks.free_seqs == self.num_seqs

    def check(self) -> None:
        """Every request is in the stage of its record, and no two requests hold the same block or beam."""
        plan = self.scheduler
        plan.blocks.check_integrity()
        assert (
            plan.waiting == self.waiting and plan.decoding == self.decoding and plan.synthesizing == self.synthesizing
        )
        for stage, jobs in (
            (Stage.WAITING, self.waiting),
            (Stage.DECODING, self.decoding),
            (Stage.SYNTHESIZING, self.synthesizing),
        ):
            assert all(one.stage is stage for one in jobs)
        blocks = [index for one in self.decoding for index in self.records[one].blocks]
        beams = [index for one in self.decoding for index in self.records[one].beam_ids]
        assert len(set(blocks)) == len(blocks) and set(blocks) <= set(range(self.num_blocks))
        assert len(set(beams)) == len(beams) and set(beams) <= set(range(self.num_seqs))
        assert plan.blocks.free_blocks == self.num_blocks - len(blocks)
        assert plan.blocks.free_seqs == self.num_seqs - len(beams)
        assert all(self.turns <= self.records[one].last_turn for one in self.waiting), "a request waits for ever"

    def _end(self, one: Job) -> None:
        assert one not in self.ended, "a request ended twice"
        assert one.stage is Stage.FINISHED
        for jobs in (self.waiting, self.decoding, self.synthesizing):
            if one in jobs:
                jobs.remove(one)
        self.ended.append(one)

    def _admit(self) -> None:
        blocks, seqs = self.scheduler.blocks.free_blocks, self.scheduler.blocks.free_seqs
        admitted = self.scheduler.admit()
        chosen = [one for one, _ in admitted]
        for one, given in admitted:
            assert len(given) == blocks_of(one) and len(one.beam_ids) == seqs_of(one)
            self.records[one].blocks, self.records[one].beam_ids = tuple(given), tuple(one.beam_ids)
        self._check_pass(chosen, blocks, seqs)
        self.waiting = [one for one in self.waiting if one not in chosen]
        self.decoding += chosen

    def _check_pass(self, chosen: list[Job], blocks: int, seqs: int) -> None:
        """First come first served among the requests that fit, within what `Limits` allows."""
        if not chosen:
            self._check_that_none_is_due(blocks, seqs)
            return
        self._held_back = 0
        assert len(chosen) == 1 or sum(one.num_tokens for one in chosen) <= self.limits.max_encoder_tokens
        skipped: list[Job] = []
        passing = list(chosen)
        for one in self.waiting:
            if not passing:
                break
            if one is passing[0]:
                assert len(skipped) <= self.limits.lookahead, "looked too far ahead"
                passing.pop(0)
                blocks, seqs = blocks - blocks_of(one), seqs - seqs_of(one)
                continue
            assert blocks_of(one) > blocks or seqs_of(one) > seqs, "an older request fits, and was passed over"
            assert self.records[one].passed < self.limits.patience, "overtaken too often"
            skipped.append(one)
        assert not passing, "not in the order of arrival, or not waiting at all"
        for one in skipped:
            self.records[one].passed += sum(self.records[other].order > self.records[one].order for other in chosen)

    def _check_that_none_is_due(self, blocks: int, seqs: int) -> None:
        assert not self.waiting or self.decoding, "nothing decodes, and nothing is admitted"
        first = self.waiting[0] if self.waiting else None
        if first is None or blocks_of(first) > blocks or seqs_of(first) > seqs:
            self._held_back = 0
            return
        self._held_back += 1
        assert seqs * 4 < self.num_seqs, "many sequences are free, and no request is admitted"
        assert self._held_back <= self.limits.patience, "a pass was put off for too long"

    def _retire(self, one: Job) -> None:
        record = self.records[one]
        self.scheduler.retire(one, record.synthesizes)
        if not record.synthesizes:
            self._end(one)
            return
        record.since = self.turns
        self.decoding.remove(one)
        self.synthesizing.append(one)

    def _synthesize(self) -> None:
        tokens = sum(one.position for one in self.synthesizing)
        overdue = (
            bool(self.synthesizing) and self.turns - self.records[self.synthesizing[0]].since >= self.limits.patience
        )
        due = bool(self.synthesizing) and (tokens >= self.limits.max_synthesis_tokens or not self.decoding or overdue)
        spoken = self.scheduler.next_synthesis()
        assert bool(spoken) == due
        assert spoken == self.synthesizing[: len(spoken)]
        assert sum(one.position for one in spoken[:-1]) < self.limits.max_synthesis_tokens
        for one in spoken:
            self._end(one)


def random_job(rng: random.Random, now: float) -> Job:
    return job(
        encoder_length=rng.choice((1, 5, 16, 17, 40)),
        num_beams=rng.choice((1, 1, 1, 2, 3, 5)),
        max_new_tokens=rng.choice((1, 6, 14, 15, World.LONGEST)),
        deadline=now + rng.randrange(30) if rng.random() < 0.2 else None,
    )


def run_schedule(seed: int) -> World:
    """A random schedule on random pools and limits, to its end."""
    rng = random.Random(seed)
    choose = rng.choice
    limits = Limits(choose((1, 20, 60, 1000)), choose((1, 20, 100)), choose((0, 1, 2, 16)), choose((1, 2, 5, 16)))
    world = World(rng.randint(2, 24), rng.randint(1, 8), limits)
    arriving = rng.randint(1, 20)
    rush, trouble = rng.random(), choose((0.0, 0.05, 0.2))
    while arriving:
        while arriving and rng.random() < rush:
            arriving -= 1
            searches = choose((1, 1, 1, 3))
            several = searches > 1
            one = job(max_new_tokens=choose((1, 15)), searches=searches) if several else random_job(rng, world.now)
            world.arrive(one, rng.randint(1, World.LONGEST), synthesizes=rng.random() < 0.4)
        if world.live and rng.random() < trouble:
            choose(world.live).cancelled = True
        if world.live and rng.random() < trouble:
            world.fail(choose(world.live))
        world.now += 1.0
        world.turn()
        rush = max(rush, 0.1)
    world.drain()
    return world
