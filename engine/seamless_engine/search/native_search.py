"""The search by csrc/: what device_step.py does, on the same state, without torch.

On a CPU a step is two calls, threaded over lines and searches. On a GPU it is up to four kernels around Triton's, which
finds the best candidates of plain lines; nothing is read back, so that a step can be captured.
"""

from __future__ import annotations

import os
from typing import Any

import torch

from seamless_engine.models.text_decoder import NextTokens, StepInputs
from seamless_engine.search.state import SearchState
from seamless_engine.search.step_batch import StepBatch
from seamless_kernels.native import csrc, csrc_cuda

_ARRAYS = (
    *("search_of", "token", "log_prob", "score", "slot_mapping", "slot_table"),
    *("finished_score", "finished_occupied", "finished_length", "finished_token", "finished_log_prob"),
    *("finished_table", "status", "position", "rows", "whole", "real", "norm", "bad_word_token", "bad_word_offset"),
    *("token_pool", "log_prob_pool"),
)
_BATCH = ("line_row", "line_offset", "search_id", "search_line", "search_active")
_INPUTS = {
    "tokens": torch.int64,
    "positions": torch.int64,
    "slots": torch.int64,
    "rows": torch.int32,
    "lengths": torch.int32,
}

# Tokens int64, keys, values and log-probabilities float32, all [m, count], best first by (key, then smaller token).
Found = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def available(device: torch.device) -> bool:
    """Whether csrc/ was built for such a device, and SEAMLESS_BACKEND does not name another implementation."""
    cuda = device.type == "cuda"
    wanted = os.environ.get("SEAMLESS_BACKEND") or "native"
    return (csrc_cuda if cuda else csrc) is not None and wanted in (("native", "triton") if cuda else ("native",))


def native_search(state: SearchState) -> CpuSearch | CudaSearch | None:
    """None where it is not available."""
    device = state.token.device
    if not available(device):
        return None
    return CudaSearch(state) if device.type == "cuda" else CpuSearch(state)


class _Search:
    """Holds the state: their tensors may be written to, not replaced."""

    def __init__(self, state: SearchState) -> None:
        self.state = state
        self.committing = False  # as the twin's
        self._batch: StepBatch | None = None
        self._fields: tuple[Any, ...] = ()

    def _view(self, tensor: torch.Tensor) -> Any:
        """What csrc takes of a tensor."""
        raise NotImplementedError

    def _begin(self, start_token: int, inputs: tuple[Any, ...]) -> None:
        raise NotImplementedError

    def begin(self, batch: StepBatch, start_token: int) -> StepInputs:
        """What the model reads at this step; its slots and tokens are entered into the state."""
        self.committing = False
        self._see(batch)
        lines = len(batch.line_row)
        read = {name: batch.line_row.new_empty(lines, dtype=dtype) for name, dtype in _INPUTS.items()}
        self._begin(start_token, tuple(self._view(part) for part in read.values()))
        return StepInputs(
            slot_table=self.state.slot_table[:, : batch.graph_key.width],
            cross_table=self.state.cross_table,
            requests=batch.request_id,
            cross_lengths=self.state.cross_length[batch.request_id],
            cu_rows=batch.cu_lines,
            **read,
        )

    def _see(self, batch: StepBatch) -> None:
        if batch is not self._batch:
            self._batch, self._fields = batch, tuple(self._view(getattr(batch, name)) for name in _BATCH)


class CpuSearch(_Search):
    def __init__(self, state: SearchState) -> None:
        super().__init__(state)
        assert csrc is not None
        self._core = csrc.Search({name: getattr(state, name).numpy() for name in _ARRAYS}, state.eos)

    def _view(self, tensor: torch.Tensor) -> Any:
        return tensor.numpy()

    def _begin(self, start_token: int, inputs: tuple[Any, ...]) -> None:
        self._core.begin(self._fields, start_token, inputs)

    def update_state(self, batch: StepBatch, expected: NextTokens) -> None:
        """The search: candidates of every beam, next beams and finished hypotheses."""
        self._see(batch)
        logits = expected.logits.numpy()
        self.committing = True
        self._core.update_state(self._fields, logits, torch.get_num_threads())

    def commit(self, batch: StepBatch, candidates: Found) -> None:
        """The second half of it, for candidates of every line that are known."""
        self._see(batch)
        self.committing = True
        self._core.commit(self._fields, tuple(part.numpy() for part in candidates), torch.get_num_threads())


class CudaSearch(_Search):
    def __init__(self, state: SearchState) -> None:
        super().__init__(state)
        assert csrc_cuda is not None
        self._core = csrc_cuda.Search({name: getattr(state, name) for name in _ARRAYS}, state.eos)

    def _view(self, tensor: torch.Tensor) -> Any:
        return tensor

    def _stream(self) -> int:
        return torch.cuda.current_stream(self.state.token.device).cuda_stream

    def _begin(self, start_token: int, inputs: tuple[Any, ...]) -> None:
        self._core.begin(self._fields, start_token, inputs, self._stream())

    def update_state(self, batch: StepBatch, expected: NextTokens) -> None:
        """The search: candidates of every beam, next beams and finished hypotheses."""
        self._see(batch)
        beams = batch.graph_key.beams
        logits = expected.logits if batch.graph_key.special else None
        log_prob, tokens = expected.best(min(2 * beams, len(expected.head)), self._banned(batch))
        key = value = log_prob
        if logits is not None:
            key, value = log_prob.clone(), log_prob.clone()
            found = tokens, key, value, log_prob
            self._core.choose_special(self._fields, beams, logits, found, self._stream())
        self.commit(batch, (tokens, key, value, log_prob))

    def commit(self, batch: StepBatch, candidates: Found) -> None:
        """The second half of it, for candidates of every line that are known."""
        self._see(batch)
        self.committing = True
        self._core.commit(self._fields, candidates, self._stream())

    def _banned(self, batch: StepBatch) -> torch.Tensor | None:
        """int64 [m, width]: tokens that a line may not choose, −1 for none."""
        graph_key = batch.graph_key
        if not (graph_key.bans or graph_key.ngram or graph_key.min_new_tokens):
            return None
        width = 1 + graph_key.bans + (graph_key.width if graph_key.ngram else 0)
        banned = batch.line_row.new_empty(len(batch.line_row), width, dtype=torch.int64)
        self._core.ban(self._fields, graph_key.beams, graph_key.bans, banned, self._stream())
        return banned
