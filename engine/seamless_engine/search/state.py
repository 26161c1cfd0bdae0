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
from seamless_engine.job import Job
from seamless_engine.request import MAX_BEAMS, DecodingParams
from seamless_engine.search.beam_step import NEVER
from seamless_engine.search.schema import ARRAYS, FloatParam, IntParam, Status
from seamless_kernels.transfer import upload


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
        self._admit_beams(jobs, slots, length)
        self._admit_searches([(job, search) for job in jobs for search in range(job.params.num_searches)], length)
        sources = [job.encoder_length for job in jobs]
        table = np.zeros((len(jobs), max(sources)), dtype=np.int32)
        for i, own in enumerate(slots):
            table[i, : sources[i]] = own[: sources[i]]
        requests = [job.beam_ids[0] for job in jobs]
        self._enter(requests, cross_table=table, cross_length=np.array(sources, dtype=np.int32))

    def _admit_beams(self, jobs: list[Job], slots: list[np.ndarray], length: int) -> None:
        mappings, prompts = [], []
        for job, own in zip(jobs, slots, strict=True):
            source_blocks = -(-job.encoder_length // BLOCK_SIZE)
            mapping = own[source_blocks * BLOCK_SIZE :].reshape(job.num_seqs, -1)
            mapping = np.pad(mapping, ((0, 0), (0, max(length - mapping.shape[1], 0))))[:, :length]
            mappings.append(mapping)
            # The first beam of a search reads the prompt, for all its beams.
            prompts.append(np.repeat(mapping[:: job.params.num_beams, :PROMPT_LENGTH], job.params.num_beams, axis=0))
        beam_ids = [beam for job in jobs for beam in job.beam_ids]
        firsts = [np.repeat(job.beam_ids[:: job.params.num_beams], job.params.num_beams) for job in jobs]
        self._enter(
            beam_ids,
            search_of=np.concatenate(firsts).astype(np.int32),
            slot_mapping=np.concatenate(mappings),
            slot_table=np.concatenate(prompts),
            token=np.repeat([job.language_id for job in jobs], [job.num_seqs for job in jobs]),
            log_prob=np.zeros(len(beam_ids), dtype=np.float32),
            score=np.zeros(len(beam_ids), dtype=np.float32),
            finished_score=np.full(len(beam_ids), NEVER, dtype=np.float32),
            finished_occupied=np.zeros(len(beam_ids), dtype=np.bool_),
        )

    def _admit_searches(self, searches: list[tuple[Job, int]], length: int) -> None:
        ids = [job.search_beams(search)[0] for job, search in searches]
        table = np.full((len(searches), MAX_BEAMS), self.dummy_beam, dtype=np.int32)
        int_params = np.zeros((len(searches), len(IntParam)), dtype=np.int64)
        float_params = np.zeros((len(searches), len(FloatParam)), dtype=np.float32)
        norm = np.ones((len(searches), length), dtype=np.float32)
        words = np.zeros((2, len(searches), max(job.num_bad_word_tokens for job, _ in searches)), dtype=np.int32)
        for i, (job, search) in enumerate(searches):
            params = job.params
            table[i, : params.num_beams] = job.search_beams(search)
            int_params[i], float_params[i] = _int_params(job, search), _float_params(params)
            norm[i, : job.max_new_tokens + 1] = _powers(params.length_penalty, job.max_new_tokens + 1)
            words[:, i, : job.num_bad_word_tokens] = bad_word_entries(job.bad_words)
        self._enter(
            ids,
            beam_ids=table,
            int_params=int_params,
            float_params=float_params,
            length_norm=norm,
            position=np.zeros(len(ids), dtype=np.int32),
            status=np.full(len(ids), Status.SEARCHING, dtype=np.int32),
            bad_word_token=words[0],
            bad_word_offset=words[1],
        )

    def _enter(self, ids: list[int], **columns: np.ndarray) -> None:
        """Write to some arrays, at `ids` of the beams, searches or requests: the first columns of tables."""
        index, *values = upload(self.token.device, np.array(ids), *columns.values())
        for name, value in zip(columns, values, strict=True):
            array = getattr(self, name)
            array[(index, slice(value.shape[1])) if value.dim() == 2 else index] = value


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
