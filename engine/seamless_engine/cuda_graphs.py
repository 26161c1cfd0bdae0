"""CUDA graphs of decode steps, and of encoder and synthesis passes that are small.

Such a program has hundreds of kernels of some microseconds each: the host takes longer to launch them than the GPU to
run them. A graph is one launch. It reads the tensors that it was captured with, so what a program reads must not move:
the inputs of a step are in buffers (`SearchState`, the pools, `BatchBuilder`), those of a pass are copied into some.

Sizes are rounded up, so that few graphs serve all of them. No result depends on that, or on a graph.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

from seamless_engine.config import EngineConfig
from seamless_engine.models.layers import Network
from seamless_engine.search.step_batch import StepBatch
from seamless_kernels.dispatch import backend_for

Step = Callable[[StepBatch], torch.Tensor]
Work = Callable[[], torch.Tensor]

_log = logging.getLogger(__name__)

BEAMS = 1, 5  # of the steps that are captured at start; most requests have these
# The tokens of passes that are graphs. In larger passes the kernels take longer than their launches.
PASS_SIZES = (*(base * quarters // 4 for base in (64, 128, 256, 512, 1024) for quarters in (4, 5, 6, 7)), 2048)
PASS_SEGMENTS = 8


def bucket(count: int) -> int:
    """`count` rounded up by an eighth at most."""
    step = 1 << max(count.bit_length() - 4, 0)
    return -(-count // step) * step


def table_width(length: int) -> int:
    """`length` rounded up to 512 · 8ⁿ. Up to 512, decode attention is one chunk: no other kernel combines chunks."""
    width = 512
    while width < length:
        width *= 8
    return width


def graph_capture(device: torch.device, options: EngineConfig) -> GraphCapture | None:
    """What captures the graphs of an engine; None if every kernel is launched by the host."""
    if device.type != "cuda" or not options.cuda_graphs:
        return None
    # The operations of torch that replace kernels read lengths back, which a graph cannot.
    by_kernels = backend_for(device, {"triton": None, "torch": None}) == "triton"
    return GraphCapture() if by_kernels else None


class GraphCapture:
    """Captures graphs into one memory pool: no two of them run at a time, so they share intermediate memory.

    After the first capture that fails there is one warning and no other attempt: a graph changes the time of a request,
    and its result must not be lost for want of one.
    """

    def __init__(self) -> None:
        self._pool: Any = None
        self._failed = False

    def try_capture(self, work: Work) -> Work | None:
        """Captures what `work` launches, without running it. The result runs it and always returns the same tensor."""
        if self._failed:
            return None
        try:
            return self.capture(work)
        except Exception as error:
            self._failed = True
            _log.warning("a CUDA graph could not be captured; the host launches what has none yet: %s", error)
            return None

    def capture(self, work: Work) -> Work:
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # Other threads may allocate meanwhile: one that reads inputs, or another engine's.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                result = work()
        finally:
            torch.cuda.set_stream(stream)  # torch does not when the capture cannot be ended

        def replay() -> torch.Tensor:
            graph.replay()
            return result

        return replay

    @property
    def nbytes(self) -> int:
        """Bytes of the memory pool."""
        segments = torch.cuda.memory_snapshot() if self._pool else []
        return sum(segment["total_size"] for segment in segments if tuple(segment["segment_pool_id"]) == self._pool)


class CudaGraphs:
    """The graphs of one program, by the shape of its inputs; at most `limit` of them."""

    def __init__(self, capture: GraphCapture, limit: int) -> None:
        self._capture = capture
        self._limit = limit
        self._graphs: dict[Hashable, Work] = {}

    @property
    def num_graphs(self) -> int:
        return len(self._graphs)

    def _run(self, shape: Hashable, work: Work) -> torch.Tensor:
        """The result of `work`: by the graph of this shape, or by the host, after which a graph is captured."""
        if shape in self._graphs:
            return self._graphs[shape]()
        result = work()  # before the capture: it compiles kernels and fills caches
        graph = self._capture.try_capture(work) if len(self._graphs) < self._limit else None
        if graph:
            self._graphs[shape] = graph
        return result


class StepGraphs(CudaGraphs):
    """Decode steps. A graph has some hundred nodes, about a megabyte.

    Up to 320 beams there are 58 numbers of queries. At start they are captured for the usual numbers of beams and short
    tables, which makes 116 graphs; other numbers of beams, long texts and long sources are captured when they occur.
    """

    def __init__(self, step: Step, capture: GraphCapture, limit: int = 512) -> None:
        super().__init__(capture, limit)
        self._step = step

    def __call__(self, batch: StepBatch) -> torch.Tensor:
        shape = len(batch.query_beam), len(batch.search_id), len(batch.request_id), batch.graph_key
        return self._run(shape, lambda: self._step(batch))


class PassGraphs(CudaGraphs):
    """A network of encoder or synthesis passes. A graph has up to a thousand nodes and a result, some megabytes.

    A pass of at most `sizes[-1]` tokens and 8 segments is copied into tensors that all graphs read. Tokens beyond its
    last segment are those of earlier passes; what the network computes of them is dropped. The host launches larger
    passes.

    max_outputs(tokens, segments): the most outputs of a pass of this size; None for one output for each token.
    """

    def __init__(
        self,
        network: Network,
        max_outputs: Callable[[int, int], int] | None,
        capture: GraphCapture,
        sizes: Sequence[int] = PASS_SIZES,
    ) -> None:
        super().__init__(capture, limit=len(sizes))
        self.network = network
        self.inputs: PassInputs | None = None
        self._max_outputs = max_outputs or (lambda tokens, _: tokens)
        self._sizes = sizes

    @property
    def input_bytes(self) -> int:
        """Bytes of the tensors that the graphs read."""
        return sum(tensor.nbytes for tensor in vars(self.inputs).values()) if self.inputs else 0

    def __call__(
        self,
        x: torch.Tensor,
        cu_seqlens: torch.Tensor,
        valid: torch.Tensor | None = None,
        num_outputs: int | None = None,
    ) -> torch.Tensor:
        """valid, num_outputs: for networks that take them."""
        segments = len(cu_seqlens) - 1
        if len(x) > self._sizes[-1] or segments > PASS_SEGMENTS:
            return self.network(*_given(x, cu_seqlens, valid, num_outputs))
        count = self._max_outputs(len(x), segments) if num_outputs is None else num_outputs
        size = self._sizes[bisect_left(self._sizes, len(x))]
        inputs = self.inputs = self.inputs or PassInputs(x, self._sizes[-1])
        inputs.copy(x, cu_seqlens, valid)
        padded = _given(
            inputs.x[:size],
            inputs.cu_seqlens,
            None if valid is None else inputs.valid,
            None if num_outputs is None else self._max_outputs(size, PASS_SEGMENTS),
        )
        return self._run(size, lambda: self.network(*padded))[:count].clone()


def _given(*arguments: Any) -> tuple[Any, ...]:
    return tuple(argument for argument in arguments if argument is not None)


class PassInputs:
    """What the graphs of a network read. A pass with fewer segments has empty ones behind its last."""

    def __init__(self, like: torch.Tensor, size: int) -> None:
        self.x = like.new_zeros(size, *like.shape[1:])
        self.cu_seqlens = torch.zeros(PASS_SEGMENTS + 1, dtype=torch.int32, device=like.device)
        self.valid = torch.zeros(PASS_SEGMENTS, dtype=torch.int32, device=like.device)

    def copy(self, x: torch.Tensor, cu_seqlens: torch.Tensor, valid: torch.Tensor | None) -> None:
        self.x[: len(x)].copy_(x)
        self.cu_seqlens[: len(cu_seqlens)].copy_(cu_seqlens)
        self.cu_seqlens[len(cu_seqlens) :].fill_(len(x))
        if valid is not None:
            self.valid[: len(valid)].copy_(valid)
            self.valid[len(valid) :].zero_()
