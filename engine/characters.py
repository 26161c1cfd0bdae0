"""Text tokens to characters, the input of the text-to-unit model: `CharacterTable`."""

from __future__ import annotations

from typing import NamedTuple

import torch

from seamless_engine.config import ModelConfig
from seamless_engine.errors import CheckpointError

_PAD, _UNK = 0, 1  # text ids, also used in the character vocabulary
_SPACE = "▁"


class Characters(NamedTuple):
    """char_ids int64 [characters] packed; counts int64 [tokens], how many of them each token stands for."""

    char_ids: torch.Tensor
    counts: torch.Tensor


class CharacterTable:
    """The characters of every token of a checkpoint, as tensors.

    A token's characters are those of `id_to_text`, "▁" included, looked up in `char_to_id`. As in transformers'
    `_get_char_input_ids`, a token without a text reads "None", a character without an id is unknown, and the unknown
    token is one unknown character. Raises CheckpointError if a character id does not fit `char_vocab_size`.
    """

    def __init__(self, config: ModelConfig, device: torch.device | str = "cpu") -> None:
        texts = [config.id_to_text.get(token, "None") for token in range(config.vocab_size)]
        texts[_UNK] = "<unk>"  # whatever the file calls it, it takes no part in the rule of spaces
        ids = [[config.char_to_id.get(character, _UNK) for character in text] for text in texts]
        ids[_UNK] = [_UNK]
        lengths = torch.tensor([len(row) for row in ids])
        self._char_ids = torch.tensor([index for row in ids for index in row], device=device)
        if int(self._char_ids.min()) < 0 or int(self._char_ids.max()) >= config.char_vocab_size:
            raise CheckpointError(
                f"generation_config.json: char_to_id has ids outside char_vocab_size {config.char_vocab_size}"
            )
        self._lengths = lengths.to(device)
        self._first = (lengths.cumsum(0) - lengths).to(device)  # position of a token's first character in _char_ids
        self._punctuation = torch.tensor([_is_punctuation(text) for text in texts], device=device)
        self._opens_word = torch.tensor([len(text) > 1 and text[0] == _SPACE for text in texts], device=device)
        self._ends = torch.tensor([token in (_PAD, config.eos_token_id) for token in range(len(texts))], device=device)

    def expand(self, tokens: torch.Tensor, cu_seqlens: torch.Tensor) -> Characters:
        """Characters of the tokens of n rows, int64 [tokens] packed with bounds `cu_seqlens` [n + 1].

        The space that opens a word counts for the token before it when that is a lone punctuation mark, as in
        transformers' `_count_character_length_in_subword`. From the first pad or eos on a row has no characters.
        """
        row = torch.repeat_interleave(cu_seqlens.diff())  # [tokens]
        ends = self._ends[tokens].cumsum(0)
        before = torch.cat((ends.new_zeros(1), ends))[cu_seqlens[:-1].long()]  # ends in the rows before each row
        live = ends == before[row]

        lengths = self._lengths[tokens] * live
        moves = torch.zeros_like(live)  # whether a token's last character is the space of the next one
        same_row = (row[1:] == row[:-1]) & live[1:]
        moves[:-1] = self._punctuation[tokens[:-1]] & self._opens_word[tokens[1:]] & same_row
        counts = lengths + moves.long() - moves.roll(1).long()

        start = self._first[tokens] - (lengths.cumsum(0) - lengths)
        positions = torch.repeat_interleave(start, lengths)
        return Characters(self._char_ids[positions + torch.arange(len(positions), device=tokens.device)], counts)


def _is_punctuation(text: str) -> bool:
    return len(text) == 1 and not text.isalpha() and not text.isnumeric() and text != _SPACE
