"""A decode step as one CUDA graph for each shape that occurs: recorded once, then launched without the host.

A step reads and writes only tensors that never move (`DecodeBuffers`, the pools, the fields of a layout), so a graph
that was recorded with one company of requests serves every other of the same shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from seamless_engine.decode.layout import StepLayout
from seamless_engine.recovery import is_out_of_memory

Step = Callable[[StepLayout], torch.Tensor]
Work = Callable[[], torch.Tensor]


BEAMS = 1, 5  # what most requests ask for: recorded before the first of them comes


def bucket(count: int) -> int:
    """`count` rounded up by an eighth at most, so that few graphs are needed and little is computed for nobody."""
    step = 1 << max(count.bit_length() - 4, 0)
    return -(-count // step) * step


class Recorder(Protocol):
    def __call__(self, work: Work) -> Work:
        """Records what `work` launches, without running it. The result runs it, and returns the same tensor always."""
        ...


class CudaRecorder:
    """One memory pool for all graphs: no two of them run at a time, so what they compute in between may share."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self.nbytes = 0  # of the pool

    def __call__(self, work: Work) -> Work:
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate meanwhile: a front end, or another engine.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            before = torch.cuda.memory_reserved()
            result = work()
            self.nbytes += torch.cuda.memory_reserved() - before

        def replay() -> torch.Tensor:
            graph.replay()
            return result

        return replay


class StepGraphs:
    """`step`, by a graph from the second time on that a shape occurs.

    A step whose shapes depend on its requests' parameters (words or n-grams that may not recur) or that treats lines
    one by one (penalties, draws) is launched by the host.
    """

    def __init__(self, step: Step, record: Recorder, limit: int = 512) -> None:
        self._step = step
        self._record = record
        self._limit = limit  # each has a few hundred nodes, about a megabyte of the device; 320 rows have 116 shapes
        self._graphs: dict[object, Work] = {}

    def __len__(self) -> int:
        return len(self._graphs)

    def __call__(self, layout: StepLayout) -> torch.Tensor:
        traits = layout.traits
        if traits.special or traits.bans or traits.ngram:
            return self._step(layout)
        key = len(layout.line_row), len(layout.search_id), len(layout.request_id), traits
        if key in self._graphs:
            return self._graphs[key]()
        result = self._step(layout)  # whatever is compiled or cached on first use, is so before the recording
        if len(self._graphs) < self._limit:
            try:
                self._graphs[key] = self._record(lambda: self._step(layout))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._limit = len(self._graphs)  # there is no room for more
        return result
