"""A pass of few rows as one CUDA graph for each size: recorded once, then launched without the host.

A pass of one clip has a hundred kernels of some microseconds each, or several hundred; the host would take longer to
launch them than the GPU to run them. What a graph reads does not move, so a pass is copied into tensors that all graphs
share, and its size is rounded up. Rows beyond the last segment belong to nobody: they hold what an earlier pass left,
are computed and dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from seamless_engine.cuda_graphs import GraphCapture, Work, bucket
from seamless_engine.models.layers import Network

_ROWS = 2048  # of a pass that is worth it: with more, kernels take longer than their launches
_SEGMENTS = 8


class PassGraphs:
    """`run`, by a graph from the third time on that a size occurs. Nothing of a result depends on it.

    outputs_of(rows, segments): the most outputs that so many rows can become.
    """

    def __init__(
        self, run: Network, outputs_of: Callable[[int, int], int], record: GraphCapture, limit: int = 64
    ) -> None:
        self._run = run
        self._outputs_of = outputs_of
        self._record = record
        self._limit = limit  # each has up to a thousand nodes and its result: some megabytes of the device
        self._inputs: _Inputs | None = None
        self._seen: set[tuple[int, int]] = set()
        self._graphs: dict[tuple[int, int], Work] = {}

    def __len__(self) -> int:
        return len(self._graphs)

    @property
    def input_bytes(self) -> int:
        """Of the tensors that the graphs share."""
        return sum(tensor.nbytes for tensor in vars(self._inputs).values()) if self._inputs else 0

    def __call__(
        self,
        rows: torch.Tensor,
        cu_seqlens: torch.Tensor,
        valid: torch.Tensor | None = None,
        outputs: int | None = None,
    ) -> torch.Tensor:
        """outputs: as many as the segments have. Without the number `run` knows it from the rows."""
        segments = len(cu_seqlens) - 1
        size = bucket(len(rows)), bucket(segments)
        known = size in self._graphs
        if not known and not self._worth_recording(size):
            return self._run(*_given(rows, cu_seqlens, valid, outputs))
        inputs = self._inputs = self._inputs or _Inputs(rows)
        inputs.take(rows, cu_seqlens, valid)
        count = self._outputs_of(len(rows), segments) if outputs is None else outputs
        if known:
            return self._graphs[size]()[:count].clone()
        views, most = inputs.of(*size), self._outputs_of(*size)
        given = _given(*views[:2], None if valid is None else views[2], None if outputs is None else most)

        def work() -> torch.Tensor:
            return self._run(*given)

        result = work()[:count].clone()  # whatever is compiled or cached on first use, is so before the recording
        graph = self._record(work)
        if graph:
            self._graphs[size] = graph
        return result

    def _worth_recording(self, size: tuple[int, int]) -> bool:
        """Whether a size that has no graph occurred before, and may have one."""
        again = size in self._seen
        self._seen.add(size)
        return again and size[0] <= _ROWS and size[1] <= _SEGMENTS and len(self._graphs) < self._limit


def _given(
    rows: torch.Tensor, cu_seqlens: torch.Tensor, valid: torch.Tensor | None, outputs: int | None
) -> tuple[Any, ...]:
    """What a network takes of it."""
    return rows, cu_seqlens, *(argument for argument in (valid, outputs) if argument is not None)


class _Inputs:
    """What the passes read. Segments that a pass does not have are empty, behind its last."""

    def __init__(self, like: torch.Tensor) -> None:
        self.rows = like.new_zeros(_ROWS, *like.shape[1:])
        self.cu_seqlens = torch.zeros(_SEGMENTS + 1, dtype=torch.int32, device=like.device)
        self.valid = torch.zeros(_SEGMENTS, dtype=torch.int32, device=like.device)

    def of(self, rows: int, segments: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.rows[:rows], self.cu_seqlens[: segments + 1], self.valid[:segments]

    def take(self, rows: torch.Tensor, cu_seqlens: torch.Tensor, valid: torch.Tensor | None) -> None:
        self.rows[: len(rows)].copy_(rows)
        self.cu_seqlens[: len(cu_seqlens)].copy_(cu_seqlens)
        self.cu_seqlens[len(cu_seqlens) :].fill_(len(rows))
        if valid is not None:
            self.valid[: len(valid)].copy_(valid)
            self.valid[len(valid) :].zero_()
