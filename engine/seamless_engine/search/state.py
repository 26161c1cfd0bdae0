"""The tables that decode steps read and write: allocated once, by beam, by search, by request and by slot.

A search is one beam search: a request has one, or one for each of the sequences that it samples. A search, and a
request, has the id of its first beam. The dummy beam belongs to no request: padding reads and writes it, and its slots
are a block of their own.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from seamless_engine.block_manager import BLOCK_SIZE, PROMPT_LENGTH, slots_of
from seamless_engine.job import FinishedHypothesis, Job
from seamless_engine.request import MAX_BEAMS, DecodingParams
from seamless_engine.search.beam_step import NEVER
from seamless_engine.search.schema import ARRAYS, FloatParam, IntParam, Status


class SearchState:
    """The arrays of schema.py, and those of the model that a search does not read."""

    def __init__(
        self,
        num_seqs: int,
        num_slots: int,
        *,
        max_length: int,
        max_source: int,
        max_bad_word_tokens: int,
        eos: int,
        like: torch.Tensor,
    ) -> None:
        """num_seqs, num_slots: those that requests get; there is one beam and one block of slots more.
        like: a weight of the model, [any, dim]."""
        beams, slots, device = num_seqs + 1, num_slots + BLOCK_SIZE, like.device
        self.dummy_beam = num_seqs
        self.eos = eos
        sizes = {
            "beams": beams,
            "max_length": max_length,
            "max_bad_word_tokens": max_bad_word_tokens,
            "slots": slots,
            "MAX_BEAMS": MAX_BEAMS,
            "NUM_INT_PARAMS": len(IntParam),
            "NUM_FLOAT_PARAMS": len(FloatParam),
        }
        for name, (dtype, *shape) in ARRAYS.items():
            array = torch.zeros([sizes[size] for size in shape], dtype=getattr(torch, dtype), device=device)
            setattr(self, name, array)
        # By request: where the keys and values of its encoder states are.
        self.cross_table = torch.zeros(beams, max_source, dtype=torch.int32, device=device)
        self.cross_length = torch.zeros(beams, dtype=torch.int32, device=device)
        # By slot: the decoder's hidden states.
        self.state_pool = torch.zeros(slots, like.shape[-1], dtype=like.dtype, device=device)

        self.search_of[self.dummy_beam] = self.dummy_beam
        self.beam_ids.fill_(self.dummy_beam)
        self.slot_mapping[self.dummy_beam] = num_slots
        self.slot_table[self.dummy_beam] = num_slots
        self.cross_table[self.dummy_beam] = num_slots
        self.cross_length[self.dummy_beam] = 1
        self.int_params[self.dummy_beam, IntParam.NUM_BEAMS] = 1
        self.int_params[self.dummy_beam, IntParam.MAX_LENGTH] = max_length
        self.float_params[self.dummy_beam] = torch.tensor(_float_params(DecodingParams()))
        self.length_norm.fill_(1.0)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> torch.Tensor: ...  # the arrays of schema.py

    def admit(self, admitted: list[tuple[Job, list[int]]]) -> None:
        """Enter requests with the blocks they were given: their beams, searches and encoder states."""
        jobs = [job for job, _ in admitted]
        slots = [slots_of(blocks) for _, blocks in admitted]
        length = max(job.max_length for job in jobs)
        beam_ids, mappings, prompts = [], [], []
        for job, own in zip(jobs, slots, strict=True):
            source_blocks = -(-job.encoder_length // BLOCK_SIZE)
            mapping = own[source_blocks * BLOCK_SIZE :].reshape(job.num_seqs, -1)
            mapping = np.pad(mapping, ((0, 0), (0, max(length - mapping.shape[1], 0))))[:, :length]
            mappings.append(mapping)
            # The first beam of a search reads the prompt, for all its beams.
            prompts.append(np.repeat(mapping[:: job.params.num_beams, :PROMPT_LENGTH], job.params.num_beams, axis=0))
            beam_ids += job.beam_ids
        index = self._index(beam_ids)
        self.slot_mapping[index, :length] = self._put(np.concatenate(mappings))
        self.slot_table[index, :PROMPT_LENGTH] = self._put(np.concatenate(prompts))
        self.token[index] = self._put(np.repeat([job.language_id for job in jobs], [job.num_seqs for job in jobs]))
        self.log_prob[index] = 0.0
        self.score[index] = 0.0
        self.finished_score[index] = NEVER
        self.finished_occupied[index] = False

        self._admit_searches(jobs, length)
        sources = [job.encoder_length for job in jobs]
        table = np.zeros((len(jobs), max(sources)), dtype=np.int32)
        for i, own in enumerate(slots):
            table[i, : sources[i]] = own[: sources[i]]
        requests = self._index([job.beam_ids[0] for job in jobs])
        self.cross_table[requests, : table.shape[1]] = self._put(table)
        self.cross_length[requests] = self._put(np.array(sources, dtype=np.int32))

    def _admit_searches(self, jobs: list[Job], length: int) -> None:
        searches = [(job, search) for job in jobs for search in range(job.params.num_searches)]
        ids = self._index([job.search_beams(search)[0] for job, search in searches])
        table = np.full((len(searches), MAX_BEAMS), self.dummy_beam, dtype=np.int32)
        int_params = np.zeros((len(searches), len(IntParam)), dtype=np.int64)
        float_params = np.zeros((len(searches), len(FloatParam)), dtype=np.float32)
        norm = np.ones((len(searches), length), dtype=np.float32)
        for i, (job, search) in enumerate(searches):
            params = job.params
            table[i, : params.num_beams] = job.search_beams(search)
            int_params[i], float_params[i] = _int_params(job, search), _float_params(params)
            norm[i, : job.max_new_tokens + 1] = _powers(params.length_penalty, job.max_new_tokens + 1)
            if job.bad_words:
                token, offset = self._put(bad_word_entries(job.bad_words))
                self.bad_word_token[ids[i], : len(token)] = token
                self.bad_word_offset[ids[i], : len(token)] = offset
        beam_ids = self._put(table)
        self.search_of[beam_ids.long()] = ids[:, None].to(self.search_of.dtype)
        self.search_of[self.dummy_beam] = self.dummy_beam
        self.beam_ids[ids] = beam_ids
        self.int_params[ids] = self._put(int_params)
        self.float_params[ids] = self._put(float_params)
        self.length_norm[ids, :length] = self._put(norm)
        self.position[ids] = 0
        self.status[ids] = int(Status.SEARCHING)

    def cross_slots(self, job: Job) -> torch.Tensor:
        """int64 [encoder_length]: where the keys and values of a request's encoder states go."""
        return self.cross_table[job.beam_ids[0], : job.encoder_length].long()

    def finished(self, job: Job) -> list[FinishedHypothesis]:
        """The hypotheses of a request whose searches are over: its best beams, or the best of each search."""
        beams = job.params.num_beams
        chosen = (
            range(0, job.num_seqs, beams) if job.params.num_searches > 1 else range(job.params.num_return_sequences)
        )
        index = self._index([job.beam_ids[i] for i in chosen])
        lengths = self.finished_length[index].tolist()
        table = self.finished_table[index, : max(lengths)].long()
        tokens, log_probs = self.token_pool[table].tolist(), self.log_prob_pool[table].tolist()
        occupied, score = self.finished_occupied[index].tolist(), self.finished_score[index].tolist()
        last, last_log_prob = self.finished_token[index].tolist(), self.finished_log_prob[index].tolist()
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


def bad_word_entries(words: tuple[tuple[int, ...], ...]) -> np.ndarray:
    """int32 [2, tokens]: the tokens of words one after another, and how far each is from the end of its word."""
    entries = [(token, len(word) - 1 - at) for word in words for at, token in enumerate(word)]
    return np.array(entries, dtype=np.int32).reshape(-1, 2).T.copy()


def _int_params(job: Job, search: int) -> list[int]:
    params = job.params
    stopping = 1 if params.early_stopping is True or params.num_beams == 1 else 0
    if params.early_stopping == "never" and params.num_beams > 1 and params.length_penalty > 0.0:
        stopping = 2
    derived = {
        IntParam.MAX_LENGTH: job.max_length,
        IntParam.EARLY_STOPPING: stopping,
        IntParam.NUM_BAD_WORD_TOKENS: job.num_bad_word_tokens,
        IntParam.SEED_LOW: params.seed & 0xFFFFFFFF,
        IntParam.SEED_HIGH: (params.seed >> 32) & 0xFFFFFFFF,
        IntParam.STREAM: search * params.num_beams,
    }
    return [int(derived[column] if column in derived else getattr(params, column.name.lower())) for column in IntParam]


def _float_params(params: DecodingParams) -> list[float]:
    derived = {FloatParam.TAIL: 1.0 - params.top_p if params.top_p < 1.0 else -1.0}
    return [derived[column] if column in derived else getattr(params, column.name.lower()) for column in FloatParam]


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
