"""The outputs of `generate`, `forward` and the encoders, for which transformers has ModelOutput classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from seamless_engine.errors import UsageError
from seamless_engine.request import DecodingParams

_KEPT = "token_logprobs has the log-probability of each chosen token"


class _ModelOutput(Mapping[str, Any]):
    """Fields by attribute, name, position or slice. A field without a value is None as an attribute and absent from the
    mapping."""

    def _present(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # pyright: ignore
        return {name: value for name, value in values.items() if value is not None}

    def __getitem__(self, key: str | int | slice) -> Any:
        return self._present()[key] if isinstance(key, str) else self.to_tuple()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._present())

    def __len__(self) -> int:
        return len(self._present())

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(self._present().values())


class TokenScores(Sequence[Any]):
    """`output.scores`, for `compute_transition_scores`: it holds the scores of the generated tokens alone."""

    def __init__(self, logprobs: torch.Tensor, params: DecodingParams) -> None:
        self._logprobs = logprobs
        self._params = params

    def __len__(self) -> int:
        """The number of generated tokens of the longest sequence, as in transformers."""
        return self._logprobs.shape[1]

    def __getitem__(self, index: Any) -> NoReturn:
        raise UsageError(f"scores of the whole vocabulary are not kept: {_KEPT}")

    def transition_scores(self, num_sequences: int, normalize_logits: bool) -> torch.Tensor:
        """float32 [sequences, tokens]. Raises UsageError where transformers' numbers are not the model's own."""
        if num_sequences != len(self._logprobs):
            raise UsageError(
                f"{num_sequences} sequences, but scores of {len(self._logprobs)}: give the sequences of one output"
            )
        if self._params.num_beams == 1 and not normalize_logits:
            raise UsageError(f"logits are not kept: give normalize_logits=True; {_KEPT}")
        changed = _changed_by(self._params)
        if changed:
            raise UsageError(f"scores after {changed} are not kept: {_KEPT} under the model itself")
        return self._logprobs


def _changed_by(params: DecodingParams) -> str:
    """A parameter for which transformers' scores are not the model's log-probabilities; "" if there is none."""
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


@dataclass(eq=False)
class GenerateOutput(_ModelOutput):
    """Text of R = batch · num_return_sequences sequences. The sequences of one input are consecutive, best first.

    sequences: int64 [R, S], the two prompt ids, the generated ids, then padding with pad_token_id.
    sequences_scores: float32 [R], with beams: sum of log-probabilities / length ** length_penalty.
    scores: with output_scores=True, for `compute_transition_scores` only.
    token_logprobs: float32 [R, S − 2] with output_scores=True: log-probability of each generated token, then zeros.
    beam_indices: None, which `compute_transition_scores` accepts.
    """

    sequences: torch.Tensor
    sequences_scores: torch.Tensor | None = None
    scores: TokenScores | None = None
    token_logprobs: torch.Tensor | None = None
    beam_indices: None = None


@dataclass(eq=False)
class SpeechOutput(_ModelOutput):
    """Speech of R sequences, with its text and its units; the counterpart of SeamlessM4Tv2GenerationOutput.

    waveform: float32 [R, samples], padded with zeros.
    waveform_lengths: int64 [R], a scalar when R is 1.
    sequences: as in `GenerateOutput`.
    unit_sequences: int64 [R, U], ids of the T2U model padded with t2u_pad_token_id.
    """

    waveform: torch.Tensor
    waveform_lengths: torch.Tensor
    sequences: torch.Tensor
    unit_sequences: torch.Tensor


@dataclass(eq=False)
class LogitsOutput(_ModelOutput):
    """logits: float32 [batch, T, vocab]."""

    logits: torch.Tensor


@dataclass(eq=False)
class EncoderOutput(_ModelOutput):
    """last_hidden_state: [batch, length, hidden] in the model's dtype; zeros where there is padding."""

    last_hidden_state: torch.Tensor
