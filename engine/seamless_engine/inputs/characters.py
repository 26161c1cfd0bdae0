"""Text tokens → characters, the input of the text-to-unit model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from seamless_engine.config import ModelConfig
from seamless_engine.errors import CheckpointError

_PAD, _UNK = 0, 1  # text ids, also used in the character vocabulary
_SPACE = "▁"


class Characters(NamedTuple):
    """char_ids: int64 [characters], packed. counts: int64 [tokens], the number of characters of each token."""

    char_ids: torch.Tensor
    counts: torch.Tensor


class CharacterTable:
    """The characters of every token of a checkpoint, as tensors.

    The characters of a token are those of its text in `id_to_text`, "▁" included; `char_to_id` gives their ids. As in
    transformers' `_get_char_input_ids`, a token without a text has the text "None", a character without an id is the
    unknown character, and the unknown token is one unknown character. Raises CheckpointError if a character id does not
    fit `char_vocab_size`.
    """

    def __init__(self, config: ModelConfig, device: torch.device | str = "cpu") -> None:
        texts = [config.id_to_text.get(token, "None") for token in range(config.vocab_size)]
        texts[_UNK] = "<unk>"  # some files have another text; this one is neither punctuation nor opens a word
        ids = [[config.char_to_id.get(character, _UNK) for character in text] for text in texts]
        ids[_UNK] = [_UNK]
        lengths = torch.tensor([len(characters) for characters in ids])
        ends = torch.tensor([token in (_PAD, config.eos_token_id) for token in range(len(texts))])
        self._char_ids = torch.tensor([index for characters in ids for index in characters], device=device)
        if int(self._char_ids.min()) < 0 or int(self._char_ids.max()) >= config.char_vocab_size:
            raise CheckpointError(
                f"generation_config.json: char_to_id has ids outside char_vocab_size {config.char_vocab_size}"
            )
        self._host = lengths.numpy(), ends.numpy()
        self._lengths, self._ends = lengths.to(device), ends.to(device)
        self._first = (lengths.cumsum(0) - lengths).to(device)  # position of a token's first character in _char_ids
        self._punctuation = torch.tensor([_is_punctuation(text) for text in texts], device=device)
        self._opens_word = torch.tensor([len(text) > 1 and text[0] == _SPACE for text in texts], device=device)

    def count(self, tokens: Sequence[int]) -> int:
        """The number of characters that `expand` gives for one text, computed on the host."""
        lengths, ends = self._host
        text = np.asarray(tokens, dtype=np.int64)
        return int(lengths[text[: ends[text].argmax()] if ends[text].any() else text].sum())

    def expand(
        self, tokens: torch.Tensor, cu_seqlens: torch.Tensor, *, prompt: int = 0, total: int | None = None
    ) -> Characters:
        """The characters of n texts, int64 [tokens] packed with `cu_seqlens` [n + 1].

        The space that opens a word counts for the previous token if that is a single punctuation mark, as in
        transformers' `_count_character_length_in_subword`. The first pad or eos of a text, and the tokens after it,
        have no characters.

        prompt: the number of tokens at the head of each text that have no characters; no text is shorter.
        total: the sum of `count` over the texts; without it, the host waits for the device.
        """
        size = len(tokens)
        segment = torch.arange(len(cu_seqlens) - 1, device=tokens.device)
        owner = torch.repeat_interleave(segment, cu_seqlens.diff().long(), output_size=size)  # [tokens], of a text
        is_text = torch.arange(size, device=tokens.device) >= cu_seqlens[owner] + prompt
        ends = (self._ends[tokens] & is_text).cumsum(0)
        before = torch.cat((ends.new_zeros(1), ends))[cu_seqlens[:-1].long()]  # ends in the texts before each text
        live = is_text & (ends == before[owner])

        lengths = self._lengths[tokens] * live
        moves = torch.zeros_like(live)  # whether a token's last character is the space of the next one
        neighbours = (owner[1:] == owner[:-1]) & live[1:] & live[:-1]
        moves[:-1] = self._punctuation[tokens[:-1]] & self._opens_word[tokens[1:]] & neighbours
        counts = lengths + moves.long() - moves.roll(1).long()

        start = self._first[tokens] - (lengths.cumsum(0) - lengths)
        positions = torch.repeat_interleave(start, lengths, output_size=total)
        return Characters(self._char_ids[positions + torch.arange(len(positions), device=tokens.device)], counts)


def _is_punctuation(text: str) -> bool:
    return len(text) == 1 and not text.isalpha() and not text.isnumeric() and text != _SPACE
