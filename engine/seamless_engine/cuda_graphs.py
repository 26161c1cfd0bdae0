"""A decode step as one CUDA graph for each shape that occurs: recorded once, then launched without the host.

A step reads and writes only tensors that never move (`SearchState`, the pools, the fields of a batch), so a graph
that was recorded with one company of requests serves every other of the same shape.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from seamless_engine.search.step_batch import StepBatch

Step = Callable[[StepBatch], torch.Tensor]
Work = Callable[[], torch.Tensor]

_log = logging.getLogger(__name__)

BEAMS = 1, 5  # what most requests ask for: recorded before the first of them comes


def bucket(count: int) -> int:
    """`count` rounded up by an eighth at most, so that few graphs are needed and little is computed for nobody."""
    step = 1 << max(count.bit_length() - 4, 0)
    return -(-count // step) * step


# Records what the work launches, without running it. The result runs it, and returns the same tensor always; None where
# there will be no graph.
GraphCapture = Callable[[Work], Work | None]


class CudaGraphCapture:
    """One memory pool for all graphs: no two of them run at a time, so what they compute in between may share.

    After the first recording that fails, for want of memory or whatever it is, there is a warning and there are no
    more: nothing hangs on a graph but time, and no result should be lost for one.
    """

    def __init__(self) -> None:
        self._pool: Any = None
        self._failed = False

    def __call__(self, work: Work) -> Work | None:
        if self._failed:
            return None
        try:
            return self._capture(work)
        except Exception as error:
            self._failed = True
            _log.warning("a CUDA graph could not be recorded; the host launches what has none yet: %s", error)
            return None

    @property
    def nbytes(self) -> int:
        """Of the pool."""
        segments = torch.cuda.memory_snapshot() if self._pool else []
        return sum(segment["total_size"] for segment in segments if tuple(segment["segment_pool_id"]) == self._pool)

    def _capture(self, work: Work) -> Work:
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # Other threads may allocate meanwhile: a front end, or another engine.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                result = work()
        finally:
            torch.cuda.set_stream(stream)  # torch does not when the capture cannot be ended

        def replay() -> torch.Tensor:
            graph.replay()
            return result

        return replay


class StepGraphs:
    """`step`, by a graph from the second time on that a shape occurs.

    A step whose shapes depend on its requests' parameters (words or n-grams that may not recur) or that treats lines
    one by one (penalties, draws) is launched by the host.
    """

    def __init__(self, step: Step, record: GraphCapture, limit: int = 512) -> None:
        self._step = step
        self._record = record
        self._limit = limit  # each has a few hundred nodes, about a megabyte of the device; 320 rows have 116 shapes
        self._graphs: dict[object, Work] = {}

    def __len__(self) -> int:
        return len(self._graphs)

    def __call__(self, batch: StepBatch) -> torch.Tensor:
        graph_key = batch.graph_key
        if graph_key.needs_logits or graph_key.num_bad_word_tokens or graph_key.ngram_size:
            return self._step(batch)
        key = len(batch.query_beam), len(batch.search_id), len(batch.request_id), graph_key
        if key in self._graphs:
            return self._graphs[key]()
        result = self._step(batch)  # whatever is compiled or cached on first use, is so before the recording
        if len(self._graphs) < self._limit:
            graph = self._record(lambda: self._step(batch))
            if graph:
                self._graphs[key] = graph
        return result
