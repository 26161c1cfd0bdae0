"""Text → token ids and back, without languages and eos, by either of the two tokenizer files of a checkpoint.

The model was trained with sentencepiece.bpe.model. transformers 5 saves tokenizer.json instead, for the library
tokenizers. Ids: <pad> 0, <unk> 1, <s> 2, </s> 3, pieces from 4 on, then the languages and other control ids.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import sentencepiece
import tokenizers

from seamless_engine.config import ModelConfig
from seamless_engine.errors import CheckpointError

MODEL_FILE = "sentencepiece.bpe.model"
JSON_FILE = "tokenizer.json"

_FIRST_PIECE = 4
_MODEL_IDS = {"unk": 0, "bos": 1, "eos": 2}  # a piece of the sentencepiece model has the token id piece + 1
_JSON_IDS = {"<pad>": 0, "<unk>": 1, "<s>": 2, "</s>": 3}


class Vocabulary(Protocol):
    """Several threads may use it at once."""

    def encode(self, text: str) -> list[int]:
        """Token ids; names of special tokens in the text are ordinary text."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids, without special, language and control tokens."""
        ...


def open_vocabulary(folder: str | os.PathLike[str], config: ModelConfig) -> Vocabulary:
    """The vocabulary of the sentencepiece model if the folder has one, else of tokenizer.json.

    Raises CheckpointError if it has neither, or if a file is damaged, differs from the other one or does not fit
    `config`.
    """
    model_path, json_path = Path(folder) / MODEL_FILE, Path(folder) / JSON_FILE
    model = _ModelVocabulary(model_path, config) if model_path.exists() else None
    saved = _JsonVocabulary(json_path, config) if json_path.exists() else None
    if model is not None and saved is not None and model.tokens() != saved.tokens():
        first = min(model.tokens().items() ^ saved.tokens().items(), key=lambda item: item[1])[0]
        raise CheckpointError(
            f"{json_path} and {MODEL_FILE} do not have the same tokens; the first that differs is {first!r}: remove "
            "the file that does not belong to this checkpoint"
        )
    found = model or saved
    if found is None:
        raise CheckpointError(f"{folder} has neither {MODEL_FILE} nor {JSON_FILE}: a checkpoint needs one of them")
    return found


class _ModelVocabulary:
    def __init__(self, path: Path, config: ModelConfig) -> None:
        self._model = sentencepiece.SentencePieceProcessor()
        try:
            self._model.LoadFromSerializedProto(path.read_bytes())
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
        except RuntimeError:
            raise CheckpointError(f"{path} is not a sentencepiece model: fetch the checkpoint again") from None
        _check_special(path, {name: getattr(self._model, f"{name}_id")() for name in _MODEL_IDS}, _MODEL_IDS)
        self._last = self._model.get_piece_size()  # the token id of the last piece
        _check_room(path, self._last, config)

    def encode(self, text: str) -> list[int]:
        return [piece + 1 for piece in self._model.encode(text)]

    def decode(self, ids: Iterable[int]) -> str:
        return self._model.decode([token - 1 for token in ids if _FIRST_PIECE <= token <= self._last])

    def tokens(self) -> dict[str, int]:
        """The ids of the tokens that a text can contain."""
        pieces: Sequence[str] = self._model.id_to_piece(list(range(_FIRST_PIECE - 1, self._last)))
        return {piece: index for index, piece in enumerate(pieces, _FIRST_PIECE)}


class _JsonVocabulary:
    def __init__(self, path: Path, config: ModelConfig) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises no narrower one
            raise CheckpointError(f"{path} is not a tokenizer: fetch the checkpoint again ({error})") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        if getattr(self._tokenizer.model, "dropout", None):
            raise CheckpointError(f"{path} has dropout, which samples tokens at random: set it to null")
        known = self._tokenizer.get_vocab(with_added_tokens=True)
        _check_special(path, {name: known.get(name) for name in _JSON_IDS}, _JSON_IDS)
        languages = {f"__{code}__": index for code, index in config.text_lang_ids.items()}
        for name, index in languages.items():
            if known.get(name, index) != index:
                raise CheckpointError(
                    f"{path}: {name} has the id {known[name]}, in generation_config.json {index}: this file belongs to "
                    "another checkpoint"
                )
        added = self._tokenizer.get_added_tokens_decoder()
        self._silent = {index for index, token in added.items() if token.special} | set(languages.values())
        self._tokens = {
            token: index for token, index in known.items() if index >= _FIRST_PIECE and index not in self._silent
        }
        _check_room(path, max((index for index in self._tokens.values() if index not in added), default=0), config)
        if max(self._tokens.values(), default=0) >= config.vocab_size:
            raise CheckpointError(
                f"{path} adds tokens past vocab_size {config.vocab_size}: this file belongs to another checkpoint"
            )

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        kept = [token for token in ids if token >= _FIRST_PIECE and token not in self._silent]
        return self._tokenizer.decode(kept, skip_special_tokens=False)

    def tokens(self) -> dict[str, int]:
        """The ids of the tokens that a text can contain."""
        return self._tokens


def _check_special(path: Path, found: dict[str, int | None], expected: dict[str, int]) -> None:
    for name, index in expected.items():
        if found[name] != index:
            raise CheckpointError(f"{path}: {name} has the id {found[name]}, not {index}: no model of this family")


def _check_room(path: Path, last: int, config: ModelConfig) -> None:
    """Raises CheckpointError. last: the largest id of a piece."""
    first_language = min(config.text_lang_ids.values(), default=config.vocab_size)
    if last >= min(first_language, config.vocab_size):
        raise CheckpointError(
            f"{path} has {last} pieces, whose token ids run into those of the languages, from {first_language}, or "
            f"past vocab_size {config.vocab_size}: this file belongs to another checkpoint"
        )
