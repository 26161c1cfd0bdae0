"""Long text → sentences that fit the model, and what stands between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Sentence(NamedTuple):
    """text is translated; separator, white space or nothing, stands between it and the next one."""

    text: str
    separator: str


def split_text(text: str, lang: str, length: Callable[[str], int], limit: int) -> list[Sentence]:
    """The sentences of `text`, one after the other: their texts and separators joined are the text.

    lang: the checkpoint's code of the language, for example "eng".
    length: the number of tokens of a text; no sentence has more than `limit` of them, unless it is one character.
    """
    raise NotImplementedError
