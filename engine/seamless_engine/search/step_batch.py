"""Which rows a decode step reads, and which searches choose from them: made on the host when the company changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from seamless_engine.block_manager import PROMPT_LENGTH
from seamless_engine.job import Job


@dataclass(frozen=True)
class GraphKey:
    """What the host knows of a step, and shapes depend on.

    width: no line has read more positions. beams: most of any search. bans: entries of the longest ban list.
    ngram: the longest n-gram that may not recur. min_new_tokens: whether anyone has a least length.
    special: lines whose scores are changed before the choice, or that draw.
    """

    width: int
    beams: int
    bans: int
    ngram: int
    min_new_tokens: bool
    special: tuple[int, ...]


@dataclass(frozen=True)
class StepBatch:
    """A line is a row at a position; tensors are int32 and stay where they are from step to step.

    The first step of a search reads both tokens of the prompt, as two lines of its first row, and chooses from the
    second. Padding has the dummy row as its row, search and request, and chooses nothing.
    """

    searches: list[tuple[Job, int]]  # with the draw
    graph_key: GraphKey
    line_row: torch.Tensor  # [m]
    line_offset: torch.Tensor  # [m], position relative to the search's
    search_id: torch.Tensor  # [n]
    search_line: torch.Tensor  # [n], the line of the first beam; the others follow
    search_active: torch.Tensor  # [n], beams that choose
    request_id: torch.Tensor  # [q]
    cu_lines: torch.Tensor  # [q + 1], lines of a request stand together


class BatchBuilder:
    """Keeps the batch while the same searches go on.

    bucket: rounds up the lines of a step, so that few shapes occur; searches and requests are then as many as lines.
    width: of the tables, rounded up to a multiple of it.
    """

    def __init__(
        self,
        num_seqs: int,
        max_length: int,
        device: torch.device,
        bucket: Callable[[int], int] | None = None,
        width: int = 64,
    ) -> None:
        self.dummy_beam = num_seqs
        self.max_length = max_length
        self.bucket = bucket
        self.width = width
        self._key: tuple[object, ...] = ()
        self._batch: StepBatch | None = None
        most = PROMPT_LENGTH * num_seqs
        self._fields = torch.zeros(7, (bucket(most) if bucket else most) + 1, dtype=torch.int32, device=device)

    def batch(self, jobs: list[Job]) -> StepBatch:
        read = max(job.position for job in jobs) + PROMPT_LENGTH
        width = min(-(-read // self.width) * self.width, self.max_length)
        key = width, *((job.serial, job.position == 0, len(job.searching)) for job in jobs)
        if self._batch is None or self._key != key:
            self._batch, self._key = self._build(jobs, width), key
        return self._batch

    def dummy(self, lines: int, beams: int) -> StepBatch:
        """A step of padding alone, in the shape of one with so many lines of searches of so many beams."""
        self._key = ()
        self._fields.zero_()
        self._fields[[0, 2, 5]] = self.dummy_beam
        graph_key = GraphKey(self.max_length, beams, bans=0, ngram=0, min_new_tokens=False, special=())
        return self._views([], graph_key, lines, lines, lines)

    def _views(self, searches: list[tuple[Job, int]], graph_key: GraphKey, m: int, n: int, q: int) -> StepBatch:
        row, offset, search, line, choosing, request, cu_lines = self._fields
        return StepBatch(
            searches, graph_key, row[:m], offset[:m], search[:n], line[:n], choosing[:n], request[:q], cu_lines[: q + 1]
        )

    def _build(self, jobs: list[Job], width: int) -> StepBatch:
        searches = [(job, draw) for job in jobs for draw in job.searching]
        ids: list[int] = []
        rows: list[int] = []
        offsets: list[int] = []
        lines: list[int] = []
        active: list[int] = []
        bounds = [0]
        special: list[int] = []
        for job in jobs:
            starts, changes = job.position == 0, job.params.do_sample or job.params.repetition_penalty != 1.0
            for draw in job.searching:
                mine = job.search_beams(draw)
                ids.append(mine[0])
                if starts:
                    rows += mine[:1] * PROMPT_LENGTH
                    offsets += range(PROMPT_LENGTH)
                    active.append(1)
                else:
                    rows += mine
                    offsets += [0] * len(mine)
                    active.append(len(mine))
                lines.append(len(rows) - active[-1])
                if changes:
                    special += range(lines[-1], len(rows))
            bounds.append(len(rows))
        params = [job.params for job in jobs]
        graph_key = GraphKey(
            width=width,
            beams=max([p.num_beams for p in params]),
            bans=max([job.num_bad_word_tokens for job in jobs]),
            ngram=min(max([p.no_repeat_ngram_size for p in params]), width),
            min_new_tokens=any([p.min_new_tokens for p in params]),
            special=tuple(special),
        )
        m, n, q = len(rows), len(searches), len(jobs)
        if self.bucket:
            m = n = q = self.bucket(m)
        fields = np.zeros((len(self._fields), max(m, n, q + 1)), dtype=np.int32)
        for field, values, padding in (
            (0, rows, self.dummy_beam),
            (1, offsets, 0),
            (2, ids, self.dummy_beam),
            (3, lines, 0),
            (4, active, 0),
            (5, [job.beam_ids[0] for job in jobs], self.dummy_beam),
            (6, bounds, bounds[-1]),
        ):
            fields[field] = padding
            fields[field, : len(values)] = values
        self._fields[:, : fields.shape[1]] = torch.from_numpy(fields).to(self._fields.device)
        return self._views(searches, graph_key, m, n, q)
