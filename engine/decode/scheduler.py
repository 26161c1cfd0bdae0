"""Which request does what next. Pure policy on plain data: first come first served, nothing is ever preempted."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from seamless_engine.decode.block_manager import PROMPT_LENGTH, BlockManager, blocks_needed
from seamless_engine.errors import CapacityError
from seamless_engine.request import DecodingParams, Request, Result, Stage

_ids = itertools.count()


@dataclass(frozen=True)
class Voice:
    """Rows of the vocoder's language and speaker tables."""

    language: int
    speaker: int


@dataclass(eq=False)
class Job:
    """A request inside the engine, with what it holds. `serial` is never reused."""

    request: Request
    params: DecodingParams
    result: Result
    source: Any  # waveform float32 [samples], Features, or token ids
    source_rows: int  # packed rows of its encoder pass
    source_length: int  # encodings
    max_new_tokens: int
    language_id: int
    voice: Voice | None  # for speech output
    started: float
    serial: int = field(default_factory=lambda: next(_ids))
    stage: Stage = Stage.WAITING
    position: int = 0  # positions read so far, the same for all beams
    rows: list[int] = field(default_factory=list)  # num_beams rows for each independent draw
    searching: list[int] = field(default_factory=list)  # draws whose search is not over
    cross_slots: Any = None  # int32 [source_length]
    speech: Any = None  # what the speech pass needs of the hypotheses

    def __post_init__(self) -> None:
        self.searching = list(range(self.params.draws))

    @property
    def num_rows(self) -> int:
        return self.params.draws * self.params.num_beams

    @property
    def generated(self) -> int:
        """Tokens chosen before this step's."""
        return max(self.position - PROMPT_LENGTH, 0)

    @property
    def max_length(self) -> int:
        return PROMPT_LENGTH + self.max_new_tokens

    @property
    def blocks_needed(self) -> int:
        return blocks_needed(self.source_length, self.num_rows, self.max_new_tokens)


class Scheduler:
    def __init__(self, blocks: BlockManager, encode_rows: int, speak_tokens: int) -> None:
        self.blocks = blocks
        self.encode_rows = encode_rows
        self.speak_tokens = speak_tokens
        self.waiting: deque[Job] = deque()
        self.decoding: list[Job] = []
        self.speaking: list[Job] = []

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.decoding or self.speaking)

    @property
    def wants_more(self) -> bool:
        """Whether another request should be prepared: a pass worth of them waits at most."""
        return (
            sum(job.source_rows for job in self.waiting) < self.encode_rows and len(self.waiting) < self.blocks.num_rows
        )

    def submit(self, job: Job) -> None:
        """Raises CapacityError for a request that would not fit even alone."""
        if job.num_rows > self.blocks.num_rows:
            raise CapacityError(f"{job.num_rows} beams or draws need EngineConfig.max_rows of at least that many")
        if job.blocks_needed > self.blocks.num_blocks:
            raise CapacityError(
                f"the request needs {job.blocks_needed} blocks of 16 slots ({job.source_length} encodings, "
                f"{job.num_rows} rows of up to {job.max_length} tokens), the pool has {self.blocks.num_blocks}: "
                "lower num_beams or max_new_tokens, or raise EngineConfig.num_slots"
            )
        self.waiting.append(job)

    def admit(self) -> list[tuple[Job, list[int]]]:
        """Requests for the next encoder pass, each with its blocks; they count as decoding from now on."""
        admitted: list[tuple[Job, list[int]]] = []
        rows = 0
        while self.waiting:
            job = self.waiting[0]
            if admitted and rows + job.source_rows > self.encode_rows:
                break
            if not self.blocks.can_reserve(job.blocks_needed, job.num_rows):
                break
            blocks, job.rows = self.blocks.reserve(job.serial, job.blocks_needed, job.num_rows)
            job.stage = Stage.DECODING
            rows += job.source_rows
            admitted.append((self.waiting.popleft(), blocks))
        self.decoding.extend(job for job, _ in admitted)
        return admitted

    def retire(self, job: Job, speaks: bool) -> None:
        """The search of `job` is over: its slots are free, and what it still needs was copied out."""
        self.decoding.remove(job)
        self.blocks.free(job.serial)
        job.stage = Stage.SPEAKING if speaks else Stage.FINISHED
        if speaks:
            self.speaking.append(job)

    def next_speech(self) -> list[Job]:
        """The next speech pass: when it is full, or when nothing else is left to do."""
        tokens = sum(job.position for job in self.speaking)
        if not self.speaking or (tokens < self.speak_tokens and (self.decoding or self.waiting)):
            return []
        chosen: list[Job] = []
        while self.speaking and sum(job.position for job in chosen) < self.speak_tokens:
            chosen.append(self.speaking.pop(0))
        for job in chosen:
            job.stage = Stage.FINISHED
        return chosen

    def drop(self, job: Job) -> None:
        """Forget a request wherever it is (it failed or was cancelled); everything it holds is free."""
        if job.stage is Stage.DECODING:
            self.decoding.remove(job)
            self.blocks.free(job.serial)
        elif job.stage is Stage.SPEAKING:
            self.speaking.remove(job)
        elif job.stage is Stage.WAITING:
            self.waiting.remove(job)
        job.stage = Stage.FINISHED
