"""Which request does what next. Pure policy on plain data: nothing is ever preempted."""

from __future__ import annotations

from dataclasses import dataclass

from seamless_engine.block_manager import BlockManager
from seamless_engine.errors import CapacityError
from seamless_engine.job import Job, Stage


@dataclass(frozen=True)
class Limits:
    """max_encoder_tokens: packed tokens of an encoder pass. max_synthesis_tokens: text tokens of a synthesis pass.

    lookahead: how many requests that do not fit are passed over in the search for one that does. patience: how often a
    request may be overtaken, and how many turns a pass may wait to be filled.
    """

    max_encoder_tokens: int
    max_synthesis_tokens: int
    lookahead: int = 16
    patience: int = 16


class SlowStart:
    """How many requests a stream pulls in all: few until some are answered, so that the first answers come soon.

    The number grows eightfold when a quarter is answered. The device is badly filled until then, so it grows fast.
    """

    def __init__(self, first: int = 8) -> None:
        self._limit = first

    def allows(self, pulled: int, answered: int) -> bool:
        """Whether to pull another request after `pulled`, of which `answered` are answered."""
        while answered * 4 >= self._limit:
            self._limit *= 8
        return pulled < self._limit


class Scheduler:
    def __init__(self, blocks: BlockManager, limits: Limits) -> None:
        self.blocks = blocks
        self.limits = limits
        self.waiting: list[Job] = []
        self.decoding: list[Job] = []
        self.synthesizing: list[Job] = []
        self._turn = 0
        self._ready: int | None = None  # the turn since which a pass could have run

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.decoding or self.synthesizing)

    @property
    def wants_more(self) -> bool:
        """Whether another request should be prepared. One pass of requests waits at most."""
        tokens = sum(job.num_tokens for job in self.waiting)
        return tokens < self.limits.max_encoder_tokens and len(self.waiting) < self.blocks.num_seqs

    def submit(self, job: Job) -> None:
        """Raises CapacityError for a request that would not fit even alone."""
        if job.num_seqs > self.blocks.num_seqs:
            raise CapacityError(f"{job.num_seqs} beams or samples need EngineConfig.max_num_seqs of at least that many")
        if job.blocks_needed > self.blocks.num_blocks:
            raise CapacityError(
                f"the request needs {job.blocks_needed} blocks of 16 slots ({job.encoder_length} encoder states, "
                f"{job.num_seqs} beams of up to {job.max_length} tokens), the pool has {self.blocks.num_blocks}: "
                "lower num_beams or max_new_tokens, or raise EngineConfig.num_slots"
            )
        job.since = self._turn
        self.waiting.append(job)

    def leaving(self, now: float) -> list[Job]:
        """Requests that were cancelled or whose time is up, wherever they are."""
        return [
            job
            for stage in (self.waiting, self.decoding, self.synthesizing)
            for job in stage
            if job.cancelled or (job.deadline is not None and job.deadline <= now)
        ]

    def admit(self) -> list[tuple[Job, list[int]]]:
        """Requests for the next encoder pass, each with its blocks; they count as decoding from now on.

        First come first served. Where the first does not fit, one of the next few that fits overtakes it. After
        `patience` such requests the pool drains until the first fits.
        """
        self._turn += 1
        chosen = self._fitting()
        if not self._worth_a_pass(chosen):
            return []
        self._ready = None
        admitted: list[tuple[Job, list[int]]] = []
        for job in chosen:
            blocks, job.beam_ids = self.blocks.reserve(job.serial, job.blocks_needed, job.num_seqs)
            job.stage, job.since = Stage.DECODING, self._turn
            admitted.append((job, blocks))
        self._note_overtaken(chosen)
        for job in chosen:
            self.waiting.remove(job)
        self.decoding += chosen
        return admitted

    def _note_overtaken(self, chosen: list[Job]) -> None:
        passed = len(chosen)
        for job in self.waiting:
            if not passed:
                return
            if job.stage is Stage.DECODING:
                passed -= 1
            else:
                job.overtaken += passed

    def _fitting(self) -> list[Job]:
        """The requests that one encoder pass, the free blocks and the free beams have room for."""
        blocks, seqs, tokens = self.blocks.free_blocks, self.blocks.free_seqs, self.limits.max_encoder_tokens
        chosen: list[Job] = []
        skipped = 0
        for job in self.waiting:
            if chosen and job.num_tokens > tokens:
                break
            if job.blocks_needed <= blocks and job.num_seqs <= seqs:
                blocks, seqs, tokens = blocks - job.blocks_needed, seqs - job.num_seqs, tokens - job.num_tokens
                chosen.append(job)
            else:
                skipped += 1
                if skipped > self.limits.lookahead or job.overtaken >= self.limits.patience:
                    break
        return chosen

    def _worth_a_pass(self, chosen: list[Job]) -> bool:
        """Whether to stop decoding for a pass. While most beams are in use, a pass waits until it is well filled."""
        if not chosen:
            return False
        if self._ready is None:
            self._ready = self._turn
        return (
            self.blocks.free_seqs * 4 >= self.blocks.num_seqs
            or sum(job.num_tokens for job in chosen) * 4 >= self.limits.max_encoder_tokens
            or self._turn - self._ready >= self.limits.patience
        )

    def retire(self, job: Job, synthesizes: bool) -> None:
        """The search of `job` is over, and what its synthesis needs was copied out: its slots are free."""
        self.decoding.remove(job)
        self.blocks.free(job.serial)
        job.stage, job.since = (Stage.SYNTHESIZING if synthesizes else Stage.FINISHED), self._turn
        if synthesizes:
            self.synthesizing.append(job)

    def next_synthesis(self) -> list[Job]:
        """The next synthesis pass: when it is full, when nothing decodes, or when a request has waited long enough."""
        if not self.synthesizing:
            return []
        tokens = sum(job.position for job in self.synthesizing)
        late = self._turn - self.synthesizing[0].since >= self.limits.patience
        if tokens < self.limits.max_synthesis_tokens and self.decoding and not late:
            return []
        chosen: list[Job] = []
        while self.synthesizing and sum(job.position for job in chosen) < self.limits.max_synthesis_tokens:
            chosen.append(self.synthesizing.pop(0))
        for job in chosen:
            job.stage = Stage.FINISHED
        return chosen

    def drop(self, job: Job) -> None:
        """Forget a request wherever it is (it failed or was cancelled); everything it holds is free."""
        if job.stage is Stage.DECODING:
            self.decoding.remove(job)
            self.blocks.free(job.serial)
        elif job.stage is Stage.SYNTHESIZING:
            self.synthesizing.remove(job)
        elif job in self.waiting:
            self.waiting.remove(job)
        job.stage = Stage.FINISHED
