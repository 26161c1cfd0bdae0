"""A decode step without a model: searches of every kind come, go on and end in the state, on random logits."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from seamless_engine import DecodingParams, Request, Result
from seamless_engine.block_manager import BLOCK_SIZE, PROMPT_LENGTH, BlockManager
from seamless_engine.job import Job
from seamless_engine.models.text_decoder import NextTokens
from seamless_engine.search.schema import IntParam, Status
from seamless_engine.search.state import SearchState
from seamless_engine.search.step_batch import BatchBuilder, StepBatch
from tolerance import SCORE_RTOL

EOS, UNK, LANGUAGE = 3, 1, 7
MAX_NEW_TOKENS = 14
Holder = TypeVar("Holder", SearchState, StepBatch)


def known(logits: torch.Tensor) -> NextTokens:
    """The next tokens by these logits, float32 [queries, vocab]."""
    expected = NextTokens(logits, logits.new_empty(logits.shape[1], 0))
    vars(expected)["logits"] = logits
    return expected


def tensors(holder: SearchState | StepBatch) -> dict[str, torch.Tensor]:
    return {name: value for name, value in vars(holder).items() if isinstance(value, torch.Tensor)}


def clone(holder: Holder, device: torch.device | None = None) -> Holder:
    """With tensors of its own, on the device if one is given."""
    copied = copy.copy(holder)
    vars(copied).update({name: value.to(device, copy=True) for name, value in tensors(holder).items()})
    return copied


def overwrite(state: SearchState, source: SearchState) -> None:
    """The tensors of `source`, which may be on another device, into those of `state`."""
    for mine, other in zip(tensors(state).values(), tensors(source).values(), strict=True):
        mine.copy_(other)


def random_params(rng: random.Random, beams: int, vocab: int, ties: bool) -> DecodingParams:
    """`ties`: scores are often equal. Then top_p is off, because the edge of a nucleus is not unique."""
    sample = rng.random() < 0.4
    words = [[rng.randrange(vocab) for _ in range(rng.randint(1, 3))] for _ in range(rng.choice([0, 0, 6]))]
    words += [[0, EOS, LANGUAGE, token] for token in range(rng.choice([0, 4]))]  # longer than the prompt
    return DecodingParams(
        num_beams=beams,
        min_new_tokens=rng.choice([0, 0, 3]),
        length_penalty=rng.choice([-1.0, 0.0, 0.6, 1.0, 2.0]),
        early_stopping=rng.choice([False, True, "never"]),
        do_sample=sample,
        temperature=rng.choice([0.6, 1.0, 1.7]),
        top_k=rng.choice([0, 1, 5, 50]),
        top_p=1.0 if ties else rng.choice([1.0, 0.9, 0.3]),
        repetition_penalty=rng.choice([1.0, 1.0, 1.3, 0.8]),
        no_repeat_ngram_size=rng.choice([0, 0, 1, 2, 3]),
        bad_words_ids=tuple(map(tuple, words)) or None,
        suppress_tokens=rng.choice([None, None, (5, 11)]),
        block_unk=rng.random() < 0.3,
        num_return_sequences=rng.choice([1, 3]) if sample and beams == 1 else 1,
        seed=rng.choice([0, 5, 2**40 + 11]),
    )


class Searches:
    """`state` has the requests that run; the caller makes the steps. `bucket` pads the batch."""

    def __init__(
        self, vocab: int, num_seqs: int = 24, bucket: int = 1, max_new_tokens: int = MAX_NEW_TOKENS, blocks: int = 200
    ) -> None:
        self.vocab = vocab
        self.max_new_tokens = max_new_tokens
        self.blocks = BlockManager(blocks, num_seqs)
        length = PROMPT_LENGTH + max_new_tokens
        slots = blocks * BLOCK_SIZE
        like = torch.zeros(1, 1)
        self.state = SearchState(
            num_seqs, slots, max_length=length, max_source=16, max_bad_word_tokens=40, eos=EOS, like=like
        )
        self._builder = BatchBuilder(num_seqs, length, like.device, lambda count: -(-count // bucket) * bucket)
        self._serial = itertools.count()
        self.jobs: list[Job] = []

    def admit(self, all_params: list[DecodingParams], max_new_tokens: Callable[[], int]) -> list[Job]:
        """The requests that fit, each for so many tokens."""
        admitted = []
        for params in all_params:
            job = Job(
                request=Request("t2tt", "fra", text="x", src_lang="eng"),
                params=params,
                result=Result(0, "t2tt", "fra"),
                source=None,
                num_tokens=5,
                encoder_length=5,
                max_new_tokens=min(max_new_tokens(), self.max_new_tokens),
                language_id=LANGUAGE,
                voice=None,
                started=0.0,
                bad_words=params.bad_words(EOS, UNK),
                serial=next(self._serial),
            )
            if self.blocks.can_reserve(job.blocks_needed, job.num_seqs):
                blocks, job.beam_ids = self.blocks.reserve(job.serial, job.blocks_needed, job.num_seqs)
                admitted.append((job, blocks))
        if admitted:
            self.state.admit(admitted)
        jobs = [job for job, _ in admitted]
        self.jobs += jobs
        return jobs

    def batch(self) -> StepBatch:
        return self._builder.batch(self.jobs)

    def after_step(self, rng: random.Random, late: float) -> None:
        """After a step: a request whose searches are over leaves; with the chance `late` the host does not know yet."""
        for job in list(self.jobs):
            job.position += PROMPT_LENGTH if job.position == 0 else 1
            for search in list(job.searching):
                over = self.state.status[job.search_beams(search)[0]] != Status.SEARCHING
                if over and (job.position >= job.max_length or rng.random() >= late):
                    job.searching.remove(search)
            if not job.searching:
                self.jobs.remove(job)
                self.blocks.free(job.serial)

    def logits(self, batch: StepBatch, generator: torch.Generator, levels: int | None = None) -> torch.Tensor:
        """float32 [queries, vocab]. With `levels` only few values, so that tokens tie. Each query has its own scale of
        them: ties between queries would depend on the last bit of a logarithm."""
        shape = len(batch.query_beam), self.vocab
        if levels is None:
            return torch.randn(shape, generator=generator) * 2
        scale = 0.5 + torch.rand(shape[0], 1, generator=generator)
        return torch.randint(levels, shape, generator=generator).float() * scale


def live(state: SearchState, batch: StepBatch) -> list[int]:
    return [i for i in batch.search_id.tolist() if state.status[i] == Status.SEARCHING]


def assert_same(mine: SearchState, other: SearchState, before: SearchState, batch: StepBatch, atol: float) -> None:
    """Two results of one step from `before`, all on the CPU: equal where they count for a live search, and nothing else
    has changed.

    atol: of scores; 0 for equal bits.
    """
    assert mine.status[mine.dummy_beam] == Status.OVER
    assert torch.equal(mine.token_pool, other.token_pool) and torch.equal(mine.log_prob_pool, other.log_prob_pool)
    steps = live(before, batch)
    beams = {i: before.beam_ids[i, : int(before.int_params[i, IntParam.NUM_BEAMS])].tolist() for i in steps}
    untouched = torch.ones(len(mine.token) - 1, dtype=torch.bool)
    untouched[[beam for ids in beams.values() for beam in ids]] = False
    for name in tensors(mine).keys() - {"token_pool", "log_prob_pool", "state_pool"}:
        one, two = (getattr(state, name)[:-1][untouched].numpy() for state in (mine, before))
        assert np.array_equal(one, two, equal_nan=True), name  # a broken search has NaN
    a, b = ({name: x.numpy() for name, x in tensors(state).items()} for state in (mine, other))
    for i in steps:
        assert a["status"][i] == b["status"][i]
        if a["status"][i] == Status.BROKEN:
            continue
        ids = beams[i]
        assert a["position"][i] == b["position"][i]
        assert_close(a["score"][ids], b["score"][ids], atol)
        # A beam without a candidate has no next token.
        going = [beam for beam in ids if b["score"][beam] != -np.inf]
        assert (a["token"][going] == b["token"][going]).all()
        assert_close(a["log_prob"][going], b["log_prob"][going], atol)
        read = b["position"][i]
        assert (a["slot_table"][going, :read] == b["slot_table"][going, :read]).all()
        assert (a["finished_occupied"][ids] == b["finished_occupied"][ids]).all()
        assert_close(a["finished_score"][ids], b["finished_score"][ids], atol)
        kept = [beam for beam in ids if b["finished_occupied"][beam]]
        assert (a["finished_length"][kept] == b["finished_length"][kept]).all()
        assert (a["finished_token"][kept] == b["finished_token"][kept]).all()
        assert_close(a["finished_log_prob"][kept], b["finished_log_prob"][kept], atol)
        within = np.arange(b["finished_table"].shape[1]) < b["finished_length"][kept, None]
        assert (a["finished_table"][kept][within] == b["finished_table"][kept][within]).all()


def assert_close(a: np.ndarray, b: np.ndarray, atol: float) -> None:
    np.testing.assert_allclose(a, b, rtol=SCORE_RTOL if atol else 0.0, atol=atol)
