"""Tokens of the text model and characters of the unit model.

    python -m demo.train.tokens --work DIR

trains DIR/sentencepiece.bpe.model on the texts of 8,000 training concepts in every language. Token ids as in the
official checkpoints: <pad> 0, <unk> 1, <s> 2, </s> 3, piece + 1, then the languages.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import sentencepiece

from demo.train.domain import distinct, text
from demo.train.words import LANGUAGES

MODEL = "sentencepiece.bpe.model"
EOS = 3
PIECES = 600
CONCEPTS = 8000


def corpus(seed: int = 0) -> list[str]:
    concepts = distinct(random.Random(f"{seed}/text"), False, CONCEPTS)
    return [text(concept, lang) for concept in concepts for lang in LANGUAGES]


class Tokens:
    """The trained pieces, the language ids behind them, and the tables of characters that depend on the corpus."""

    def __init__(self, work: Path) -> None:
        self.model = sentencepiece.SentencePieceProcessor(model_file=str(work / MODEL))
        self.pieces = self.model.get_piece_size()
        self.lang = {lang: self.pieces + 1 + i for i, lang in enumerate(LANGUAGES)}
        self.vocab_size = -(-(self.pieces + 1 + len(LANGUAGES)) // 8) * 8
        letters = sorted({c for i in range(3, self.pieces) for c in self.model.id_to_piece(i)} - {"▁"})
        self.characters = {c: i for i, c in enumerate(["<pad>", "<unk>", "<s>", "</s>", "▁", *letters])}  # unit model
        self.sounds = {c: i + 1 for i, c in enumerate([" ", *sorted({c.lower() for c in letters})])}  # CTC; 0 is blank

    def encode(self, words: str) -> list[int]:
        return [piece + 1 for piece in self.model.encode(words)]

    def decode(self, ids: list[int]) -> str:
        return self.model.decode([i - 1 for i in ids if 3 < i <= self.pieces]).strip()

    def source(self, words: str, lang: str) -> list[int]:
        """What the text encoder reads."""
        return [self.lang[lang], *self.encode(words), EOS]

    def target(self, words: str, lang: str) -> list[int]:
        """What the text decoder reads, and shifted by one, from its third id on, what it must say."""
        return [EOS, self.lang[lang], *self.encode(words), EOS]

    def heard(self, words: str) -> list[int]:
        """Labels of the CTC head."""
        return [self.sounds[c] for c in words.lower()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus(args.seed)),
        model_prefix=str(args.work / MODEL.removesuffix(".model")),
        vocab_size=PIECES,
        model_type="bpe",
        character_coverage=1.0,
        normalization_rule_name="nmt_nfkc",
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
        num_threads=1,
    )
    tokens = Tokens(args.work)
    print(f"{tokens.pieces} pieces, vocabulary {tokens.vocab_size}, {len(tokens.sounds)} sounds")


if __name__ == "__main__":
    main()
