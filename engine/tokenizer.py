"""Text to tokens and back with the checkpoint's sentencepiece model.

A piece of the model has the token id piece + 1, because id 0 is padding: <pad> 0, <unk> 1, <s> 2, </s> 3, pieces from
4 on, then the languages and other control ids, which have no piece.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import sentencepiece

from seamless_engine.config import ModelConfig
from seamless_engine.errors import CheckpointError, InputError
from seamless_engine.languages import Languages

MODEL_FILE = "sentencepiece.bpe.model"

_FIRST_PIECE = 4
_EXPECTED_IDS = (("unk", 0), ("bos", 1), ("eos", 2))  # of the sentencepiece model; the token ids follow from them


class Tokenizer:
    """Safe to share between threads."""

    def __init__(self, model: sentencepiece.SentencePieceProcessor, config: ModelConfig) -> None:
        self._model = model
        self._languages = Languages(config)
        self._eos = config.eos_token_id
        self._pieces = model.get_piece_size()

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str], config: ModelConfig) -> Tokenizer:
        """Raises CheckpointError if the model file is missing or damaged, or does not belong to `config`."""
        path = Path(folder) / MODEL_FILE
        model = sentencepiece.SentencePieceProcessor()
        try:
            model.LoadFromSerializedProto(path.read_bytes())
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}. The checkpoint needs this file") from None
        except RuntimeError:
            raise CheckpointError(f"{path} is not a sentencepiece model: fetch the checkpoint again") from None
        _check(path, model, config)
        return cls(model, config)

    def encode(self, text: str, src_lang: str) -> list[int]:
        """[language, pieces …, eos]. Names of special tokens in the text are ordinary text.

        Raises InputError for a text without anything to translate or that is no Unicode text; UnknownLanguageError.
        """
        language = self._languages.source_id(src_lang)
        if "\0" in text:
            raise InputError("the text contains a NUL character: remove it")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError("the text contains half a surrogate pair: decode it from its bytes again") from None
        pieces = self._model.encode(text) if text.strip() else []
        if not pieces:  # also after normalisation, of zero-width characters for example
            raise InputError("the text is empty")
        return [language, *(piece + 1 for piece in pieces), self._eos]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of generated ids; special, language and control ids are left out."""
        return self._model.decode([token - 1 for token in ids if _FIRST_PIECE <= token <= self._pieces]).strip()


def _check(path: Path, model: sentencepiece.SentencePieceProcessor, config: ModelConfig) -> None:
    for name, expected in _EXPECTED_IDS:
        actual = getattr(model, f"{name}_id")()
        if actual != expected:
            raise CheckpointError(f"{path}: {name} has the id {actual}, not {expected}: no model of this family")
    pieces = model.get_piece_size()
    first_language = min(config.text_lang_ids.values(), default=config.vocab_size)
    if pieces >= min(first_language, config.vocab_size):
        raise CheckpointError(
            f"{path} has {pieces} pieces, whose token ids run into those of the languages, from {first_language}, or "
            f"past vocab_size {config.vocab_size}: this file belongs to another checkpoint"
        )
