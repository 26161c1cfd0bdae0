"""Which request does what next. Pure policy on plain data: nothing is ever preempted."""

from __future__ import annotations

from dataclasses import dataclass

from seamless_engine.block_manager import BlockManager
from seamless_engine.errors import CapacityError
from seamless_engine.job import Job, Stage


@dataclass(frozen=True)
class Limits:
    """max_encoder_tokens: packed rows of an encoder pass. max_synthesis_tokens: text tokens of a speech pass.

    lookahead: how far behind a request that does not fit another one is looked for. patience: how often a request is
    overtaken, and how many turns one waits for company in a pass, before it goes first.
    """

    max_encoder_tokens: int
    max_synthesis_tokens: int
    lookahead: int = 16
    patience: int = 16


class SlowStart:
    """How many requests a stream draws in all: few until some are answered, so that the first answers come soon.

    The number grows eightfold when a quarter is answered: until then the device is badly filled, so strides are large.
    """

    def __init__(self, first: int = 8) -> None:
        self._limit = first

    def allows(self, drawn: int, answered: int) -> bool:
        """Whether to draw another request after so many, of which so many are answered."""
        while answered * 4 >= self._limit:
            self._limit *= 8
        return drawn < self._limit


class Scheduler:
    def __init__(self, blocks: BlockManager, limits: Limits) -> None:
        self.blocks = blocks
        self.limits = limits
        self.waiting: list[Job] = []
        self.decoding: list[Job] = []
        self.speaking: list[Job] = []
        self._turn = 0
        self._ready: int | None = None  # since when a pass could have run

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.decoding or self.speaking)

    @property
    def wants_more(self) -> bool:
        """Whether another request should be prepared: a pass worth of them waits at most."""
        rows = sum(job.num_tokens for job in self.waiting)
        return rows < self.limits.max_encoder_tokens and len(self.waiting) < self.blocks.num_seqs

    def submit(self, job: Job) -> None:
        """May be called by any thread. Raises CapacityError for a request that would not fit even alone."""
        if job.num_seqs > self.blocks.num_seqs:
            raise CapacityError(f"{job.num_seqs} beams or draws need EngineConfig.max_num_seqs of at least that many")
        if job.blocks_needed > self.blocks.num_blocks:
            raise CapacityError(
                f"the request needs {job.blocks_needed} blocks of 16 slots ({job.encoder_length} encodings, "
                f"{job.num_seqs} rows of up to {job.max_length} tokens), the pool has {self.blocks.num_blocks}: "
                "lower num_beams or max_new_tokens, or raise EngineConfig.num_slots"
            )
        job.since = self._turn
        self.waiting.append(job)

    def leaving(self, now: float) -> list[Job]:
        """Requests that were cancelled or whose time is up, wherever they are."""
        return [
            job
            for stage in (self.waiting, self.decoding, self.speaking)
            for job in stage
            if job.cancelled or (job.deadline is not None and job.deadline <= now)
        ]

    def admit(self) -> list[tuple[Job, list[int]]]:
        """Requests for the next encoder pass, each with its blocks; they count as decoding from now on.

        First come first served. Where the first does not fit, one of the next few that does goes before it, but only so
        often: then the pool drains until the first fits.
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
            self.waiting.remove(job)  # in place: another thread may submit meanwhile
        self.decoding += chosen
        return admitted

    def skip_turn(self) -> None:
        """A turn in which no pass can begin, because one is running beside it."""
        self._turn += 1

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
        """The requests that one encoder pass, the free blocks and the free rows have room for."""
        blocks, rows, encode = self.blocks.free_blocks, self.blocks.free_seqs, self.limits.max_encoder_tokens
        chosen: list[Job] = []
        skipped = 0
        for job in self.waiting:
            if chosen and job.num_tokens > encode:
                break
            if job.blocks_needed <= blocks and job.num_seqs <= rows:
                blocks, rows, encode = blocks - job.blocks_needed, rows - job.num_seqs, encode - job.num_tokens
                chosen.append(job)
            else:
                skipped += 1
                if skipped > self.limits.lookahead or job.overtaken >= self.limits.patience:
                    break
        return chosen

    def _worth_a_pass(self, chosen: list[Job]) -> bool:
        """A pass stops every decode, or slows it down.

        While most rows are busy it waits until it is well filled, but not for long.
        """
        if not chosen:
            return False
        if self._ready is None:
            self._ready = self._turn
        return (
            self.blocks.free_seqs * 4 >= self.blocks.num_seqs
            or sum(job.num_tokens for job in chosen) * 4 >= self.limits.max_encoder_tokens
            or self._turn - self._ready >= self.limits.patience
        )

    def retire(self, job: Job, speaks: bool) -> None:
        """The search of `job` is over: its slots are free, and what it still needs was copied out."""
        self.decoding.remove(job)
        self.blocks.free(job.serial)
        job.stage, job.since = (Stage.SYNTHESIZING if speaks else Stage.FINISHED), self._turn
        if speaks:
            self.speaking.append(job)

    def next_speech(self) -> list[Job]:
        """The next speech pass: when it is full, when nothing decodes, or when somebody has waited long enough."""
        if not self.speaking:
            return []
        tokens = sum(job.position for job in self.speaking)
        late = self._turn - self.speaking[0].since >= self.limits.patience
        if tokens < self.limits.max_synthesis_tokens and self.decoding and not late:
            return []
        chosen: list[Job] = []
        while self.speaking and sum(job.position for job in chosen) < self.limits.max_synthesis_tokens:
            chosen.append(self.speaking.pop(0))
        for job in chosen:
            job.stage = Stage.FINISHED
        return chosen

    def drop(self, job: Job) -> None:
        """Forget a request wherever it is (it failed or was cancelled); everything it holds is free."""
        if job.stage is Stage.DECODING:
            self.decoding.remove(job)
            self.blocks.free(job.serial)
        elif job.stage is Stage.SYNTHESIZING:
            self.speaking.remove(job)
        elif job in self.waiting:
            self.waiting.remove(job)
        job.stage = Stage.FINISHED
