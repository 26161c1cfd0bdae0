"""All that a decode step reads and writes, allocated once: tables by row, by search and by request.

A *row* is one beam. A *search* is one beam search: a request, or one of the draws of a request that draws several
sequences. A search, and a request, is known by its first row, so that nothing else has to be handed out. Row `dummy` is
nobody's: padding reads and writes it, and its slots are a block of their own.
"""

from __future__ import annotations

import enum
import functools
import math

import numpy as np
import torch

from seamless_engine.block_manager import BLOCK_SIZE, PROMPT_LENGTH
from seamless_engine.job import FinishedHypothesis, Job
from seamless_engine.request import MAX_BEAMS
from seamless_engine.search.beam_step import NEVER


class Status(enum.IntEnum):
    """Of a search. Only a step changes it: what is over or broken is left alone until its rows are given again."""

    OVER = 0
    SEARCHING = 1
    BROKEN = 2  # its model produced a NaN


class IntParam(enum.IntEnum):
    """Columns of `SearchState.whole`."""

    NUM_BEAMS = 0
    MAX_LENGTH = 1  # prompt and generation
    MIN_NEW_TOKENS = 2
    STOP = 3  # 0: when no running beam can win at its length; 1: when num_beams are finished; 2: at any length
    NGRAM = 4  # of no_repeat_ngram_size
    BANS = 5  # entries of the ban list
    SAMPLE = 6
    TOP_K = 7
    SEED_LOW = 8  # 32 bits each
    SEED_HIGH = 9
    STREAM = 10  # of the first beam's noise


class FloatParam(enum.IntEnum):
    """Columns of `SearchState.real`."""

    REPETITION_PENALTY = 0
    TEMPERATURE = 1
    TAIL = 2  # 1 − top_p; below 0 when off


class SearchState:
    def __init__(
        self,
        num_seqs: int,
        num_slots: int,
        *,
        max_length: int,
        max_source: int,
        max_bans: int,
        eos: int,
        like: torch.Tensor,
    ) -> None:
        """num_seqs, num_slots: those that are handed out; there is one row and one block of slots more.
        like: a weight of the model, [any, dim]."""
        rows, slots = num_seqs + 1, num_slots + BLOCK_SIZE
        self.dummy_beam = num_seqs
        self.eos = eos

        def zeros(*shape: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros(*shape, dtype=dtype, device=like.device)

        whole, index, real, flag = torch.int64, torch.int32, torch.float32, torch.bool
        # By row.
        self.search_of = zeros(rows, dtype=index)
        self.token = zeros(rows, dtype=whole)  # the next to be read
        self.log_prob = zeros(rows, dtype=real)  # of that token
        self.score = zeros(rows, dtype=real)
        self.slot_mapping = zeros(rows, max_length, dtype=index)  # where the row writes
        self.slot_table = zeros(rows, max_length, dtype=index)  # what it has read, by position
        self.finished_score = zeros(rows, dtype=real)
        self.finished_occupied = zeros(rows, dtype=flag)
        self.finished_length = zeros(rows, dtype=index)  # positions read
        self.finished_token = zeros(rows, dtype=whole)  # the last one, which no step has read
        self.finished_log_prob = zeros(rows, dtype=real)
        self.finished_table = zeros(rows, max_length, dtype=index)
        # By search.
        self.status = zeros(rows, dtype=index)
        self.position = zeros(rows, dtype=index)  # positions read
        self.rows = zeros(rows, MAX_BEAMS, dtype=index)
        self.whole = zeros(rows, len(IntParam), dtype=whole)
        self.real = zeros(rows, len(FloatParam), dtype=real)
        self.norm = zeros(rows, max_length, dtype=real)  # tokens generated to the power of the length penalty
        self.bad_word_token = zeros(
            rows, max_bans, dtype=index
        )  # the words that may not be completed, one after another
        self.bad_word_offset = zeros(rows, max_bans, dtype=index)  # of each token from the end of its word
        # By request.
        self.cross_table = zeros(rows, max_source, dtype=index)
        self.cross_length = zeros(rows, dtype=index)
        # By slot.
        self.token_pool = zeros(slots, dtype=whole)
        self.log_prob_pool = zeros(slots, dtype=real)
        self.state_pool = zeros(slots, like.shape[-1], dtype=like.dtype)

        self.search_of[self.dummy_beam] = self.dummy_beam
        self.rows.fill_(self.dummy_beam)
        self.slot_mapping[self.dummy_beam] = num_slots
        self.slot_table[self.dummy_beam] = num_slots
        self.cross_table[self.dummy_beam] = num_slots
        self.cross_length[self.dummy_beam] = 1
        self.whole[self.dummy_beam, IntParam.NUM_BEAMS] = 1
        self.whole[self.dummy_beam, IntParam.MAX_LENGTH] = max_length
        self.real[self.dummy_beam, FloatParam.TEMPERATURE] = 1.0
        self.real[self.dummy_beam, FloatParam.REPETITION_PENALTY] = 1.0
        self.norm.fill_(1.0)

    def admit(self, admitted: list[tuple[Job, list[int]]]) -> None:
        """Enter requests with the blocks they were given: their rows, searches and encodings."""
        jobs = [job for job, _ in admitted]
        slots = [_slots(blocks) for _, blocks in admitted]
        length = max(job.max_length for job in jobs)
        rows, own, prompts = [], [], []
        for job, mine in zip(jobs, slots, strict=True):
            source_blocks = -(-job.encoder_length // BLOCK_SIZE)
            table = mine[source_blocks * BLOCK_SIZE :].reshape(job.num_seqs, -1)
            table = np.pad(table, ((0, 0), (0, max(length - table.shape[1], 0))))[:, :length]
            own.append(table)
            # The first row of a search reads the prompt, for all its beams.
            prompts.append(np.repeat(table[:: job.params.num_beams, :PROMPT_LENGTH], job.params.num_beams, axis=0))
            rows += job.beam_ids
        index = self._index(rows)
        self.slot_mapping[index, :length] = self._put(np.concatenate(own))
        self.slot_table[index, :PROMPT_LENGTH] = self._put(np.concatenate(prompts))
        self.token[index] = self._put(np.repeat([job.language_id for job in jobs], [job.num_seqs for job in jobs]))
        self.log_prob[index] = 0.0
        self.score[index] = 0.0
        self.finished_score[index] = NEVER
        self.finished_occupied[index] = False

        self._admit_searches(jobs, length)
        sources = [job.encoder_length for job in jobs]
        table = np.zeros((len(jobs), max(sources)), dtype=np.int32)
        for i, mine in enumerate(slots):
            table[i, : sources[i]] = mine[: sources[i]]
        requests = self._index([job.beam_ids[0] for job in jobs])
        self.cross_table[requests, : table.shape[1]] = self._put(table)
        self.cross_length[requests] = self._put(np.array(sources, dtype=np.int32))

    def _admit_searches(self, jobs: list[Job], length: int) -> None:
        searches = [(job, draw) for job in jobs for draw in range(job.params.num_searches)]
        ids = self._index([job.search_beams(draw)[0] for job, draw in searches])
        table = np.full((len(searches), MAX_BEAMS), self.dummy_beam, dtype=np.int32)
        whole = np.zeros((len(searches), len(IntParam)), dtype=np.int64)
        real = np.zeros((len(searches), len(FloatParam)), dtype=np.float32)
        norm = np.ones((len(searches), length), dtype=np.float32)
        for i, (job, draw) in enumerate(searches):
            params = job.params
            table[i, : params.num_beams] = job.search_beams(draw)
            whole[i] = _whole(job, draw)
            real[i] = params.repetition_penalty, params.temperature, 1.0 - params.top_p if params.top_p < 1.0 else -1.0
            norm[i, : job.max_new_tokens + 1] = _powers(params.length_penalty, job.max_new_tokens + 1)
            if job.bad_words:
                token, distance = self._put(ban_entries(job.bad_words))
                self.bad_word_token[ids[i], : len(token)] = token
                self.bad_word_offset[ids[i], : len(token)] = distance
        rows = self._put(table)
        self.search_of[rows.long()] = ids[:, None].to(self.search_of.dtype)
        self.search_of[self.dummy_beam] = self.dummy_beam
        self.rows[ids] = rows
        self.whole[ids] = self._put(whole)
        self.real[ids] = self._put(real)
        self.norm[ids, :length] = self._put(norm)
        self.position[ids] = 0
        self.status[ids] = int(Status.SEARCHING)

    def cross_slots(self, job: Job) -> torch.Tensor:
        """int64 [encoder_length]: where the keys and values of a request's encodings go."""
        return self.cross_table[job.beam_ids[0], : job.encoder_length].long()

    def finished(self, job: Job) -> list[FinishedHypothesis]:
        """What a request asked for, once its searches are over: the best of its beams, or one of each draw."""
        beams = job.params.num_beams
        chosen = (
            range(0, job.num_seqs, beams) if job.params.num_searches > 1 else range(job.params.num_return_sequences)
        )
        rows = self._index([job.beam_ids[i] for i in chosen])
        lengths = self.finished_length[rows].tolist()
        table = self.finished_table[rows, : max(lengths)].long()
        tokens, log_probs = self.token_pool[table].tolist(), self.log_prob_pool[table].tolist()
        occupied, score = self.finished_occupied[rows].tolist(), self.finished_score[rows].tolist()
        last, last_log_prob = self.finished_token[rows].tolist(), self.finished_log_prob[rows].tolist()
        return [
            FinishedHypothesis(
                tokens=[*tokens[i][PROMPT_LENGTH:length], last[i]],
                slots=table[i, :length],
                score=score[i],
                log_probs=[*log_probs[i][PROMPT_LENGTH:length], last_log_prob[i]],
            )
            for i, length in enumerate(lengths)
            if occupied[i]
        ]

    def _index(self, values: list[int]) -> torch.Tensor:
        return torch.tensor(values, device=self.token.device)

    def _put(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(self.token.device)


def ban_entries(words: tuple[tuple[int, ...], ...]) -> np.ndarray:
    """int32 [2, entries]: the tokens of words one after another, and how far each is from the end of its word."""
    entries = [(token, len(word) - 1 - at) for word in words for at, token in enumerate(word)]
    return np.array(entries, dtype=np.int32).reshape(-1, 2).T.copy()


def _whole(job: Job, draw: int) -> list[int]:
    p = job.params
    stop = 1 if p.early_stopping is True or p.num_beams == 1 else 0
    if p.early_stopping == "never" and p.num_beams > 1 and p.length_penalty > 0.0:
        stop = 2
    values = {
        IntParam.NUM_BEAMS: p.num_beams,
        IntParam.MAX_LENGTH: job.max_length,
        IntParam.MIN_NEW_TOKENS: p.min_new_tokens,
        IntParam.STOP: stop,
        IntParam.NGRAM: p.no_repeat_ngram_size,
        IntParam.BANS: job.num_bad_word_tokens,
        IntParam.SAMPLE: p.do_sample,
        IntParam.TOP_K: p.top_k,
        IntParam.SEED_LOW: p.seed & 0xFFFFFFFF,
        IntParam.SEED_HIGH: (p.seed >> 32) & 0xFFFFFFFF,
        IntParam.STREAM: draw * p.num_beams,
    }
    return [int(values[column]) for column in IntParam]


@functools.lru_cache(maxsize=64)
def _powers(exponent: float, count: int) -> np.ndarray:
    """float32 [count]. Powers of Python numbers, so the bits are the reference's on any device."""
    values = [1.0]
    for n in range(1, count):
        try:
            values.append(float(n) ** exponent)
        except OverflowError:
            values.append(math.inf)
    with np.errstate(over="ignore"):
        return np.array(values).astype(np.float32)


def _slots(blocks: list[int]) -> np.ndarray:
    """int32: the slots of blocks, in order."""
    return (np.array(blocks, dtype=np.int32)[:, None] * BLOCK_SIZE + np.arange(BLOCK_SIZE, dtype=np.int32)).ravel()
