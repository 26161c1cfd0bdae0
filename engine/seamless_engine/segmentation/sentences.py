"""Long text → sentences that fit the model, and what stands between them.

sentencex finds the sentences: rules and abbreviations of some 300 languages, which Wikimedia maintains. A sentence that
is too long is cut behind a clause, else at a space, else between two characters as readers see them (the extended
grapheme clusters of Unicode, by the regular expressions of `tokenizers`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import sentencex
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

from seamless_engine.errors import InputError
from seamless_engine.inputs.language_tags import iso_639_1

_WINDOW = 10_000  # characters that sentencex reads at a time: an unclosed quote takes it the square of its length
_CLUSTER = 256  # characters: longer clusters are no text
# Where a sentence that is too long is cut, the best place first: behind a sentence in quotes, a clause, a word.
_CUTS = (
    re.compile(r"[.!?…]['\"’”»)\]]*\s+|[。！？।॥။።۔؟][’”»」』）]*\s*"),
    re.compile(r"[,;:–—،؛·፣፤]\s+|[、，；：]\s*"),
    re.compile(r"\s+"),
)
# Khmer's full stops, which sentencex does not know, as those of Devanagari, which it knows in every language.
_FULL_STOPS = str.maketrans({"។": "।", "៕": "॥"})
_clusters = Split(Regex(r"\X"), "isolated")


class Sentence(NamedTuple):
    """text is translated; separator, white space or nothing, stands between it and the next one."""

    text: str
    separator: str


def split_text(text: str, lang: str, length: Callable[[str], int], limit: int) -> list[Sentence]:
    """The sentences of `text`, one after the other: their texts and separators joined are the text.

    lang: the checkpoint's code of the language, for example "eng".
    length: the number of tokens of a text. A sentence has at most `limit` of them, or is a single character.

    Only the first sentence may begin with white space. A text of white space alone is one sentence.

    Raises InputError if the text has half a surrogate pair.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError("the text contains half a surrogate pair: decode it from its bytes again") from None
    sentences, lead = [], ""
    for found in _found(text, iso_639_1(lang)):
        body = found.lstrip()
        space = found[: len(found) - len(body)]
        if sentences:
            sentences[-1] = Sentence(sentences[-1].text, sentences[-1].separator + space)
        else:
            lead += space
        sentences += _fitting(body, length, limit)
    if not sentences:
        return [Sentence(text, "")]
    return [Sentence(lead + sentences[0].text, sentences[0].separator), *sentences[1:]]


def _found(text: str, language: str) -> Iterator[str]:
    """What sentencex finds, a window at a time. The last sentence of a window may go on: the next begins with it."""
    first = 0
    while first < len(text):
        window = text[first : first + _WINDOW]
        found = sentencex.segment(language, window.translate(_FULL_STOPS))  # pyright: ignore[reportAttributeAccessIssue]
        lengths = [len(sentence) for sentence in found]
        if first + len(window) < len(text) and len(lengths) > 1:
            lengths.pop()
        for size in lengths:
            yield text[first : first + size]
            first += size


def _fitting(sentence: str, length: Callable[[str], int], limit: int) -> Iterator[Sentence]:
    """A sentence that begins with no white space, in pieces if it is too long."""
    while sentence:
        piece = sentence.rstrip()
        if length(piece) > limit:
            piece = piece[: _cut(piece, length, limit)].rstrip()
        rest = sentence[len(piece) :].lstrip()
        yield Sentence(piece, sentence[len(piece) : len(sentence) - len(rest)])
        sentence = rest


def _cut(text: str, length: Callable[[str], int], limit: int) -> int:
    """Where to cut a text that is too long: in the second half of what fits if possible."""
    most, above = 1, len(text)  # the characters that fit; a single one must
    while above - most > 1:
        middle = (most + above) // 2
        most, above = (middle, above) if length(text[:middle]) <= limit else (most, middle)
    for first in (most // 2, 0):
        for pattern in _CUTS:
            ends = [found.end() for found in pattern.finditer(text, first, most + 1)]
            for end in reversed(ends):
                if length(text[:end].rstrip()) <= limit:  # a shorter text may have more tokens
                    return end
    first = max(0, most - _CLUSTER)
    end, best = first, most
    for cluster, _ in _clusters.pre_tokenize_str(text[first : most + _CLUSTER]):
        end += len(cluster)
        if end <= most and length(text[:end]) <= limit:
            best = end
    return best
