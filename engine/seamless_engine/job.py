"""What the engine knows of a request while it runs."""

from __future__ import annotations

import enum
import itertools
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from seamless_engine.block_manager import PROMPT_LENGTH, blocks_needed
from seamless_engine.request import DecodingParams, Request, Result, Segment
from seamless_engine.source import Source


class Stage(enum.Enum):
    """Where a request is on its way through the engine."""

    WAITING = enum.auto()
    DECODING = enum.auto()
    SYNTHESIZING = enum.auto()
    FINISHED = enum.auto()


_ids = itertools.count()


@dataclass(frozen=True)
class Voice:
    """Rows of the vocoder's language and speaker tables."""

    language: int
    speaker: int


@dataclass(eq=False)
class Job:
    """A request inside the engine, or one segment of it, with what it holds. `serial` is never reused."""

    request: Request
    params: DecodingParams
    result: Result
    source: Source | None  # None once its encoder states are stored
    num_tokens: int  # packed, of its encoder pass
    encoder_length: int  # of the encoder states
    max_new_tokens: int
    language_id: int
    voice: Voice | None  # for speech output
    started: float  # seconds on time.perf_counter's clock
    segment: Segment | None = None  # of a clip that was cut into several jobs
    separator: str = ""  # between the text of this job and that of the next one of the request
    deadline: float | None = None  # on the same clock
    bad_words: tuple[tuple[int, ...], ...] = ()  # token sequences that may not be completed
    serial: int = field(default_factory=lambda: next(_ids))
    stage: Stage = Stage.WAITING
    cancelled: bool = False
    overtaken: int = 0  # requests that were admitted before this older one
    since: int = 0  # the turn at which its stage began
    position: int = 0  # positions read so far, the same for all beams
    beam_ids: list[int] = field(default_factory=list)  # rows of the search state, num_beams for each search
    searching: list[int] = field(default_factory=list)  # indices of the searches that have not ended
    decode_clock: float = 0.0  # seconds that the engine had decoded when this request began to
    speech: Any = None  # what the synthesis pass needs of the hypotheses
    streams: bool = False  # the caller takes the speech in pieces: no synthesis pass
    outbox: deque[Job] = field(default_factory=deque)  # takes the job when it is finished
    failure: BaseException | None = None  # what ended the engine; then there is no result

    def __post_init__(self) -> None:
        self.searching = list(range(self.params.num_searches))
        self.num_bad_word_tokens = sum(len(word) for word in self.bad_words)
        # A captured step has no logits and no lists of banned tokens to choose by.
        self.chooses_apart = self.params.needs_logits or bool(self.bad_words) or self.params.no_repeat_ngram_size > 0
        self.num_seqs = self.params.num_searches * self.params.num_beams
        self.max_length = PROMPT_LENGTH + self.max_new_tokens
        self.blocks_needed = blocks_needed(self.encoder_length, self.num_seqs, self.max_new_tokens)

    @property
    def num_queries(self) -> int:
        """Of its next step."""
        return len(self.searching) * (PROMPT_LENGTH if self.position == 0 else self.params.num_beams)

    def search_beams(self, search: int) -> list[int]:
        """The beams of one search. The first one identifies the search."""
        beams = self.params.num_beams
        return self.beam_ids[search * beams : (search + 1) * beams]


@dataclass(frozen=True)
class FinishedHypothesis:
    """What a search found. tokens: generated ids, the last one included. slots: int64, of the decoder states of all
    tokens but the last. log_probs: of each token."""

    tokens: list[int]
    slots: np.ndarray
    score: float
    log_probs: list[float]
