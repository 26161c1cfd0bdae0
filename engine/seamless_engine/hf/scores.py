"""What stands for transformers' `scores`, of which the engine keeps the part of the chosen tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch

from seamless_engine.errors import UsageError
from seamless_engine.request import DecodingParams

_KEPT = "token_logprobs has the log-probability of each chosen token"


class TokenScores(Sequence[Any]):
    """`output.scores`, for `compute_transition_scores`. The scores of the whole vocabulary are not kept."""

    def __init__(self, logprobs: torch.Tensor, params: DecodingParams) -> None:
        self._logprobs = logprobs
        self._params = params

    def __len__(self) -> int:
        """Generated tokens of the longest sequence, as there."""
        return self._logprobs.shape[1]

    def __getitem__(self, index: Any) -> NoReturn:
        raise UsageError(f"scores of the whole vocabulary are not kept: {_KEPT}")

    def transition_scores(self, rows: int, normalize_logits: bool) -> torch.Tensor:
        """float32 [rows, tokens]. Raises UsageError where transformers' numbers are others than the model's own."""
        if rows != len(self._logprobs):
            raise UsageError(f"{rows} sequences, but scores of {len(self._logprobs)}: give the sequences of one output")
        if self._params.num_beams == 1 and not normalize_logits:
            raise UsageError(f"logits are not kept: give normalize_logits=True; {_KEPT}")
        changed = changes_scores(self._params)
        if changed:
            raise UsageError(f"scores after {changed} are not kept: {_KEPT} under the model itself")
        return self._logprobs


def changes_scores(params: DecodingParams) -> str:
    """Name of a parameter that makes transformers' scores other than the model's log-probabilities, "" if none."""
    plain = DecodingParams()
    names = ["repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "min_new_tokens"]
    for name in names:
        if getattr(params, name) != getattr(plain, name):
            return name
    if params.do_sample:
        for name, neutral in (("temperature", 1.0), ("top_k", 0), ("top_p", 1.0)):
            if getattr(params, name) != neutral:
                return name
    return ""
