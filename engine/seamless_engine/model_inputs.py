"""Inputs of the encoders as transformers' processor makes them, which a request takes in place of a clip or a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Features:
    """A clip, for `Request.audio`.

    frames: float32 [frames, 160], each of two frames of the filter bank, normalised.
    valid: how many of them are whole. An odd number of frames of the filter bank leaves one more, whose second half is
        padding.
    """

    frames: torch.Tensor
    valid: int


@dataclass(frozen=True)
class Tokens:
    """A text, for `Request.text`: [language, pieces …, eos]. The first id takes the place of `src_lang`."""

    ids: list[int]


ModelInputs = Features | Tokens
