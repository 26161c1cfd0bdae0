"""The queries that a decode step computes, and the searches that choose from them: built when the batch changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from seamless_engine.block_manager import PROMPT_LENGTH
from seamless_engine.job import Job
from seamless_kernels.transfer import upload


@dataclass(frozen=True)
class GraphKey:
    """What the host knows of a step and its shapes depend on.

    width: no beam has read more positions. source_width: no request has more encoder states. The other fields are of
    the searches that choose. beams: most of any, 0 where none chooses. num_bad_word_tokens, ngram_size: the largest of
    any request. min_new_tokens: whether a request has a least length. needs_logits: queries whose candidates are chosen
    from processed logits.
    """

    width: int
    source_width: int
    beams: int
    num_bad_word_tokens: int
    ngram_size: int
    min_new_tokens: bool
    needs_logits: tuple[int, ...]


@dataclass(frozen=True)
class StepBatch:
    """A query is a beam at a position that this step computes. Tensors are int32 and stay in place from step to step.

    The first step of a search reads both tokens of the prompt, as two queries of its first beam, and chooses from the
    second. Padding has the dummy beam as its beam, search and request, and chooses nothing.
    """

    searches: list[tuple[Job, int]]  # those that choose, with the number of the search within its request
    graph_key: GraphKey
    query_beam: torch.Tensor  # [m]
    query_offset: torch.Tensor  # [m], position relative to the search's
    search_id: torch.Tensor  # [n]
    search_query: torch.Tensor  # [n], the query of the first beam; those of the other beams follow
    search_active: torch.Tensor  # [n], number of beams that choose
    request_id: torch.Tensor  # [q]
    cu_queries: torch.Tensor  # [q + 1], the queries of a request stand together


def multiple_of_64(length: int) -> int:
    return -(-length // 64) * 64


class BatchBuilder:
    """Keeps the batch as long as the same searches go on.

    bucket: rounds up the number of queries, so that few shapes occur; searches and requests are then padded to the same
    number. width: rounds up the widths of the tables. all_choose: False leaves out the choice of the requests that
    choose apart (`Job.chooses_apart`); their queries stay in the batch.
    """

    def __init__(
        self,
        num_seqs: int,
        max_length: int,
        device: torch.device,
        bucket: Callable[[int], int] | None = None,
        width: Callable[[int], int] = multiple_of_64,
        all_choose: bool = True,
    ) -> None:
        self.dummy_beam = num_seqs
        self.max_length = max_length
        self.bucket = bucket
        self.width = width
        self.all_choose = all_choose
        self._key: tuple[object, ...] = ()
        self._batch: StepBatch | None = None
        most = PROMPT_LENGTH * num_seqs
        self.fields = torch.zeros(7, (bucket(most) if bucket else most) + 1, dtype=torch.int32, device=device)

    def batch(self, jobs: list[Job]) -> StepBatch:
        read = max(job.position for job in jobs) + PROMPT_LENGTH
        widths = min(self.width(read), self.max_length), self.width(max(job.encoder_length for job in jobs))
        key = widths, *((job.serial, job.position == 0, len(job.searching)) for job in jobs)
        if self._batch is None or self._key != key:
            self._batch, self._key = self._build(jobs, *widths), key
        return self._batch

    def chooses(self, job: Job) -> bool:
        """Whether the searches of a request choose in the batches that have its queries."""
        return self.all_choose or not job.chooses_apart

    def dummy(self, queries: int, beams: int) -> StepBatch:
        """A step of padding alone, in the shape of a short one with so many queries of searches of so many beams."""
        self._key = ()
        self.fields.zero_()
        for field in (0, 2, 5):
            self.fields[field] = self.dummy_beam
        widths = min(self.width(PROMPT_LENGTH), self.max_length), self.width(1)
        graph_key = GraphKey(*widths, beams, num_bad_word_tokens=0, ngram_size=0, min_new_tokens=False, needs_logits=())
        return self._views([], graph_key, queries, queries, queries)

    def _views(self, searches: list[tuple[Job, int]], graph_key: GraphKey, m: int, n: int, q: int) -> StepBatch:
        beam, offset, search, query, active, request, cu_queries = self.fields
        return StepBatch(
            searches,
            graph_key,
            beam[:m],
            offset[:m],
            search[:n],
            query[:n],
            active[:n],
            request[:q],
            cu_queries[: q + 1],
        )

    def _build(self, jobs: list[Job], width: int, source_width: int) -> StepBatch:
        choosing = [job for job in jobs if self.chooses(job)]
        searches = [(job, search) for job in choosing for search in job.searching]
        ids: list[int] = []
        beams: list[int] = []
        offsets: list[int] = []
        queries: list[int] = []
        active: list[int] = []
        cu_queries = [0]
        needs_logits: list[int] = []
        for job in jobs:
            starts, chooses, needs = job.position == 0, self.chooses(job), job.params.needs_logits
            for search in job.searching:
                own = job.search_beams(search)
                num_active = 1 if starts else len(own)
                if starts:
                    beams += own[:1] * PROMPT_LENGTH
                    offsets += range(PROMPT_LENGTH)
                else:
                    beams += own
                    offsets += [0] * len(own)
                if chooses:
                    ids.append(own[0])
                    active.append(num_active)
                    queries.append(len(beams) - num_active)
                    if needs:
                        needs_logits += range(queries[-1], len(beams))
            cu_queries.append(len(beams))
        params = [job.params for job in choosing]
        graph_key = GraphKey(
            width=width,
            source_width=source_width,
            beams=max([p.num_beams for p in params], default=0),
            num_bad_word_tokens=max([job.num_bad_word_tokens for job in choosing], default=0),
            ngram_size=min(max([p.no_repeat_ngram_size for p in params], default=0), width),
            min_new_tokens=any([p.min_new_tokens for p in params]),
            needs_logits=tuple(needs_logits),
        )
        m, n, q = len(beams), len(searches), len(jobs)
        if self.bucket:
            m = n = q = self.bucket(m)
        fields = np.zeros((len(self.fields), max(m, n, q + 1)), dtype=np.int32)
        for field, values, padding in (
            (0, beams, self.dummy_beam),
            (1, offsets, 0),
            (2, ids, self.dummy_beam),
            (3, queries, 0),
            (4, active, 0),
            (5, [job.beam_ids[0] for job in jobs], self.dummy_beam),
            (6, cu_queries, cu_queries[-1]),
        ):
            fields[field] = padding
            fields[field, : len(values)] = values
        (uploaded,) = upload(self.fields.device, fields)
        self.fields[:, : fields.shape[1]] = uploaded
        return self._views(searches, graph_key, m, n, q)
