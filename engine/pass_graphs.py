"""An encoder pass of few rows as one CUDA graph for each size: recorded once, then launched without the host.

A pass of one clip has hundreds of kernels of some microseconds each; the host would take longer to launch them than the
GPU to run them. What a graph reads does not move, so a pass is copied into tensors that are as long as its size rounded
up. Rows beyond the last segment belong to nobody: they hold what an earlier pass left, are computed and dropped.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from seamless_engine.decode.step_graphs import Recorder, Work, bucket

# rows [total, …], cu_seqlens int32 [n + 1], valid int32 [n], encodings → [encodings, dim]
Pass = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]

_ROWS = 2048  # of a pass that is worth it: with more, kernels take longer than their launches
_SEGMENTS = 8


class PassGraphs:
    """`run`, by a graph from the second time on that a size occurs. Nothing of a result depends on it.

    encodings_of(rows, segments): the most encodings that so many rows can become.
    """

    def __init__(self, run: Pass, encodings_of: Callable[[int, int], int], record: Recorder, limit: int = 256) -> None:
        self._run = run
        self._encodings_of = encodings_of
        self._record = record
        self._limit = limit  # each has about a thousand nodes, a megabyte or two of the device
        self._graphs: dict[tuple[int, int], tuple[_Inputs, Work]] = {}

    def __len__(self) -> int:
        return len(self._graphs)

    def __call__(
        self, rows: torch.Tensor, cu_seqlens: torch.Tensor, valid: torch.Tensor, encodings: int
    ) -> torch.Tensor:
        total, segments = len(rows), len(valid)
        if total > _ROWS or segments > _SEGMENTS:
            return self._run(rows, cu_seqlens, valid, encodings)
        size = bucket(total), bucket(segments)
        if size in self._graphs:
            inputs, work = self._graphs[size]
            inputs.take(rows, cu_seqlens, valid)
            return work()[:encodings].clone()
        inputs, most = _Inputs(rows, *size), self._encodings_of(*size)
        inputs.take(rows, cu_seqlens, valid)

        def work() -> torch.Tensor:
            return self._run(inputs.rows, inputs.cu_seqlens, inputs.valid, most)

        result = work()[:encodings].clone()  # whatever is compiled or cached on first use, is so before the recording
        if len(self._graphs) < self._limit:
            self._graphs[size] = inputs, self._record(work)
        return result


class _Inputs:
    """What the passes of one size read. Segments that a pass does not have are empty, behind its last."""

    def __init__(self, like: torch.Tensor, rows: int, segments: int) -> None:
        self.rows = like.new_zeros(rows, *like.shape[1:])
        self.cu_seqlens = torch.zeros(segments + 1, dtype=torch.int32, device=like.device)
        self.valid = torch.zeros(segments, dtype=torch.int32, device=like.device)

    def take(self, rows: torch.Tensor, cu_seqlens: torch.Tensor, valid: torch.Tensor) -> None:
        self.rows[: len(rows)].copy_(rows)
        self.cu_seqlens[: len(cu_seqlens)].copy_(cu_seqlens)
        self.cu_seqlens[len(cu_seqlens) :].fill_(len(rows))
        self.valid[: len(valid)].copy_(valid)
        self.valid[len(valid) :].zero_()
