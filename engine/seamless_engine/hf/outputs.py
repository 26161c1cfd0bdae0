"""What `generate` and `forward` return where transformers returns a ModelOutput."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from seamless_engine.hf.scores import TokenScores


class _ModelOutput(Mapping[str, Any]):
    """Fields by attribute, name, position or slice; one without a value is None as an attribute and else absent."""

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


@dataclass(eq=False)
class GenerateOutput(_ModelOutput):
    """Text of R sequences: batch × num_return_sequences, those of a sentence one after the other, best first.

    sequences: int64 [R, S], the two prompt ids, the generated ones, then padding with pad_token_id.
    sequences_scores: float32 [R], with beams: sum of log-probabilities by length to the power of length_penalty.
    scores: with output_scores=True, for `compute_transition_scores` only.
    token_logprobs: float32 [R, S − 2] with output_scores=True: log-probability of each generated token, then zeros.
    beam_indices: None, which `compute_transition_scores` takes; beams are not numbered.
    """

    sequences: torch.Tensor
    sequences_scores: torch.Tensor | None = None
    scores: TokenScores | None = None
    token_logprobs: torch.Tensor | None = None
    beam_indices: None = None


@dataclass(eq=False)
class SpeechOutput(_ModelOutput):
    """Speech of R sequences with what it was made from; the counterpart of SeamlessM4Tv2GenerationOutput.

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
