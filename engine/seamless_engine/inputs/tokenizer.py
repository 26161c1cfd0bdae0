"""Text → the tokens that the text encoder reads; generated tokens → text."""

from __future__ import annotations

import os
from collections.abc import Iterable

from seamless_engine.config import ModelConfig
from seamless_engine.errors import InputError
from seamless_engine.inputs.languages import Languages
from seamless_engine.inputs.vocabulary import Vocabulary, open_vocabulary

EMPTY = 2  # tokens of a text without pieces: its language and eos


class Tokenizer:
    """Several threads may use it at once.

    languages: the checkpoint's.
    """

    def __init__(self, vocabulary: Vocabulary, config: ModelConfig) -> None:
        self.languages = Languages(config)
        self._vocabulary = vocabulary
        self._eos = config.eos_token_id

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str], config: ModelConfig) -> Tokenizer:
        """Raises CheckpointError if the tokenizer's file is missing or damaged, or does not belong to `config`."""
        return cls(open_vocabulary(folder, config), config)

    def encode(self, text: str, src_lang: str) -> list[int]:
        """[language, pieces …, eos]. Names of special tokens in the text are ordinary text.

        Raises InputError if the text is empty or not valid Unicode; UnknownLanguageError.
        """
        return self.encode_from(text, self.languages.source_id(src_lang))

    def encode_from(self, text: str, source_id: int) -> list[int]:
        """As `encode`, with the id of the language. Raises InputError."""
        if "\0" in text:
            raise InputError("the text contains a NUL character: remove it")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError("the text contains half a surrogate pair: decode it from its bytes again") from None
        pieces = self._vocabulary.encode(text) if text.strip() else []
        if not pieces:  # normalisation may remove everything, zero-width characters for example
            raise InputError("the text is empty")
        return [source_id, *pieces, self._eos]

    def num_tokens(self, text: str) -> int:
        """How many tokens `encode` gives; EMPTY for a text that it refuses as empty."""
        return EMPTY + (len(self._vocabulary.encode(text)) if text.strip() else 0)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of generated ids, without special, language and control tokens."""
        return self._vocabulary.decode(ids).strip()
