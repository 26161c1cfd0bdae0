"""The search by csrc/: the same as torch_search.py on the same state, without torch.

On a CPU a step is two calls, threaded over queries and searches. On a GPU it is up to four kernels around Triton's,
which finds the best candidates of queries that need no logits; nothing is read back, so that a step can be captured.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch

from seamless_engine.models.text_decoder import NextTokens, StepInputs
from seamless_engine.search import schema
from seamless_engine.search.state import SearchState
from seamless_engine.search.step_batch import StepBatch
from seamless_kernels import dispatch
from seamless_kernels.native import csrc, csrc_cuda

_BATCH = ("query_beam", "query_offset", "search_id", "search_query", "search_active")
_INPUTS = {
    "tokens": torch.int64,
    "positions": torch.int64,
    "slots": torch.int64,
    "beams": torch.int32,
    "lengths": torch.int32,
}

# Tokens int64, keys, values and log-probabilities float32, all [m, count], best first by (key, then smaller token).
QueryCandidates = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def check_schema(module: ModuleType) -> None:
    """Raises ImportError for a module that was built from another search/schema.py."""
    if getattr(module, "SEARCH_SCHEMA", None) != schema.fingerprint():
        raise ImportError(f"{module.__name__} was built for another layout of the search: run `pip install -e .` again")


for _module in filter(None, (csrc, csrc_cuda)):
    check_schema(_module)


def available(device: torch.device) -> bool:
    """Whether csrc/ was built for such a device, and SEAMLESS_BACKEND does not name another implementation."""
    cuda = device.type == "cuda"
    wanted = dispatch.forced() or "native"
    return (csrc_cuda if cuda else csrc) is not None and wanted in (("native", "triton") if cuda else ("native",))


def native_search(state: SearchState) -> CpuSearch | CudaSearch | None:
    """None where it is not available."""
    device = state.token.device
    if not available(device):
        return None
    return CudaSearch(state) if device.type == "cuda" else CpuSearch(state)


class _Search:
    """Holds the tensors of the state, which may be written to, not replaced. updating: as in TorchSearch."""

    def __init__(self, state: SearchState) -> None:
        self.state = state
        self.updating = False
        self._batch: StepBatch | None = None
        self._fields: tuple[Any, ...] = ()

    def _view(self, tensor: torch.Tensor) -> Any:
        """What csrc takes of a tensor."""
        raise NotImplementedError

    def _prepare_inputs(self, start_token: int, inputs: tuple[Any, ...]) -> None:
        raise NotImplementedError

    def _arrays(self) -> dict[str, Any]:
        return {name: self._view(getattr(self.state, name)) for name in schema.ARRAYS}

    def prepare_inputs(self, batch: StepBatch, start_token: int) -> StepInputs:
        """What the model reads at this step; its slots and tokens are entered into the state."""
        self._use(batch)
        queries = len(batch.query_beam)
        inputs = {name: batch.query_beam.new_empty(queries, dtype=dtype) for name, dtype in _INPUTS.items()}
        self._prepare_inputs(start_token, tuple(self._view(part) for part in inputs.values()))
        return StepInputs(
            slot_table=self.state.slot_table[:, : batch.graph_key.width],
            cross_table=self.state.cross_table[:, : batch.graph_key.source_width],
            requests=batch.request_id,
            cross_lengths=self.state.cross_length[batch.request_id],
            cu_queries=batch.cu_queries,
            **inputs,
        )

    def _use(self, batch: StepBatch) -> None:
        if batch is not self._batch:
            self._batch, self._fields = batch, tuple(self._view(getattr(batch, name)) for name in _BATCH)


class CpuSearch(_Search):
    def __init__(self, state: SearchState) -> None:
        super().__init__(state)
        assert csrc is not None
        self._search = csrc.Search(self._arrays(), state.eos)

    def _view(self, tensor: torch.Tensor) -> Any:
        return tensor.numpy()

    def _prepare_inputs(self, start_token: int, inputs: tuple[Any, ...]) -> None:
        self._search.prepare_inputs(self._fields, start_token, inputs)

    def update_state(self, batch: StepBatch, expected: NextTokens) -> None:
        """The search: candidates of every beam, next beams and finished hypotheses."""
        self._use(batch)
        logits = expected.logits.numpy()
        self.updating = True
        self._search.update_state(self._fields, logits, torch.get_num_threads())

    def update_from_candidates(self, batch: StepBatch, candidates: QueryCandidates) -> None:
        """The beam step alone, for known candidates of every query."""
        self._use(batch)
        self.updating = True
        views = tuple(part.numpy() for part in candidates)
        self._search.update_from_candidates(self._fields, views, torch.get_num_threads())


class CudaSearch(_Search):
    def __init__(self, state: SearchState) -> None:
        super().__init__(state)
        assert csrc_cuda is not None
        self._search = csrc_cuda.Search(self._arrays(), state.eos)

    def _view(self, tensor: torch.Tensor) -> Any:
        return tensor

    def _stream(self) -> int:
        return torch.cuda.current_stream(self.state.token.device).cuda_stream

    def _prepare_inputs(self, start_token: int, inputs: tuple[Any, ...]) -> None:
        self._search.prepare_inputs(self._fields, start_token, inputs, self._stream())

    def update_state(self, batch: StepBatch, expected: NextTokens) -> None:
        """The search: candidates of every beam, next beams and finished hypotheses."""
        self._use(batch)
        beams = batch.graph_key.beams
        logits = expected.logits if batch.graph_key.needs_logits else None
        log_prob, tokens = expected.best(min(2 * beams, len(expected.head)), self._banned_tokens(batch))
        key = value = log_prob
        if logits is not None:
            key, value = log_prob.clone(), log_prob.clone()
            candidates = tokens, key, value, log_prob
            self._search.processed_candidates(self._fields, beams, logits, candidates, self._stream())
        self.update_from_candidates(batch, (tokens, key, value, log_prob))

    def update_from_candidates(self, batch: StepBatch, candidates: QueryCandidates) -> None:
        """The beam step alone, for known candidates of every query."""
        self._use(batch)
        self.updating = True
        self._search.update_from_candidates(self._fields, candidates, self._stream())

    def _banned_tokens(self, batch: StepBatch) -> torch.Tensor | None:
        """int64 [m, width]: tokens that a query may not choose, −1 for none."""
        graph_key = batch.graph_key
        count = graph_key.num_bad_word_tokens
        if not (count or graph_key.ngram_size or graph_key.min_new_tokens):
            return None
        width = 1 + count + (graph_key.width if graph_key.ngram_size else 0)
        banned = batch.query_beam.new_empty(len(batch.query_beam), width, dtype=torch.int64)
        self._search.banned_tokens(self._fields, graph_key.beams, count, banned, self._stream())
        return banned
