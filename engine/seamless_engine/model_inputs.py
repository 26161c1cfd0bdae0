"""Inputs that are past the front end: what transformers' processor gives, in place of a clip or a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Features:
    """A clip as `Request.audio`: rows float32 [rows, 160], normalised log-mel frames in pairs.

    valid: whole rows. There are as many, or one more: the half-real last row of an odd number of frames.
    """

    rows: torch.Tensor
    valid: int


@dataclass(frozen=True)
class Tokens:
    """A sentence as `Request.text`: [language, pieces …, eos]; the first id says what `src_lang` would."""

    ids: list[int]


ModelInputs = Features | Tokens
