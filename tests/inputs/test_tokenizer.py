"""Text to tokens and back, and tokens to characters, against sentencepiece's rules and transformers' methods."""

from __future__ import annotations

import dataclasses
import io
import random
from types import SimpleNamespace
from typing import Any

import pytest
import sentencepiece
import torch
from transformers import SeamlessM4TTokenizer
from transformers.models.seamless_m4t_v2.modeling_seamless_m4t_v2 import SeamlessM4Tv2ForTextToSpeech

from seamless_engine.config import ModelConfig
from seamless_engine.errors import CheckpointError, InputError, UnknownLanguageError
from seamless_engine.inputs.characters import CharacterTable
from seamless_engine.inputs.tokenizer import Tokenizer
from seamless_engine.inputs.vocabulary import MODEL_FILE

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "Where is the station, and when does the next train leave?",
    "Je voudrais deux cafés et un croissant, s'il vous plaît.",
    "Wie spät ist es? Es ist halb zehn!",
    "Numbers such as 1984, 42 and 3.14 are in here (too).",
    "El niño compró tres manzanas en el mercado.",
]
PIECES = 200
CONFIG = ModelConfig(vocab_size=PIECES + 8, text_lang_ids={"eng": PIECES + 1, "fra": PIECES + 2})


def train(**options) -> bytes:
    model = io.BytesIO()
    settings = {"vocab_size": PIECES, "model_type": "bpe", "normalization_rule_name": "nmt_nfkc", "minloglevel": 2}
    settings |= {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=model, **(settings | options)
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    (folder / MODEL_FILE).write_bytes(train())
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder) -> Tokenizer:
    return Tokenizer.from_folder(folder, CONFIG)


@pytest.mark.parametrize("text", SENTENCES)
def test_tokens_equal_transformers_and_read_back(text, tokenizer, folder):
    reference = SeamlessM4TTokenizer.from_pretrained(
        folder, src_lang="eng", additional_special_tokens=["__eng__", "__fra__"]
    )
    ids = tokenizer.encode(text, "eng")
    assert ids == reference(text)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_a_text_is_its_language_its_pieces_and_eos(tokenizer, folder):
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / MODEL_FILE))
    for code, language in (("eng", PIECES + 1), ("fr", PIECES + 2)):
        ids = tokenizer.encode("the dog", code)
        assert ids == [language, *(piece + 1 for piece in model.encode("the dog")), 3]
        assert all(4 <= token <= PIECES for token in ids[1:-1])


def test_unknown_characters_are_one_unknown_token(tokenizer):
    ids = tokenizer.encode("the 漢字 dog", "eng")
    assert ids.count(1) == 1 and tokenizer.decode(ids).split() == ["the", "dog"]


@pytest.mark.parametrize("text", ["</s>", "__fra__", "<s> <pad>", "a </s> b __eng__"])
def test_names_of_special_tokens_are_ordinary_text(text, tokenizer):
    ids = tokenizer.encode(text, "eng")
    assert ids[0] == PIECES + 1 and ids[-1] == 3
    assert all(token == 1 or 4 <= token <= PIECES for token in ids[1:-1])


def test_special_language_and_control_ids_have_no_text(tokenizer):
    body = tokenizer.encode("the dog", "eng")[1:-1]
    noisy = [3, PIECES + 2, 0, 1, *body[:2], 2, *range(PIECES + 1, PIECES + 8), *body[2:], 3, 0, 0]
    assert tokenizer.decode(noisy) == "the dog"
    assert tokenizer.decode([]) == tokenizer.decode([3, PIECES + 1, 3]) == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        (" \n\t\u3000", "empty"),
        ("\u200b", "empty"),
        ("half \ud83d pair", "surrogate"),
        ("a\0b", "NUL"),
    ],
)
def test_text_that_cannot_be_translated_is_refused(text, message, tokenizer):
    with pytest.raises(InputError, match=message):
        tokenizer.encode(text, "eng")


def test_a_source_language_that_the_checkpoint_lacks_is_refused(tokenizer):
    with pytest.raises(UnknownLanguageError, match="deu"):
        tokenizer.encode("the dog", "deu")


def test_a_model_file_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / MODEL_FILE).mkdir()
    with pytest.raises(CheckpointError, match=f"{MODEL_FILE} cannot be read: Is a directory"):
        Tokenizer.from_folder(tmp_path, CONFIG)


@pytest.mark.parametrize("content", [b"", b"not a model" * 50])
def test_a_damaged_model_file_is_refused(content, tmp_path):
    (tmp_path / MODEL_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match="not a sentencepiece model"):
        Tokenizer.from_folder(tmp_path, CONFIG)


def test_a_model_with_other_special_ids_is_refused(tmp_path):
    (tmp_path / MODEL_FILE).write_bytes(train(unk_id=1, bos_id=0))
    with pytest.raises(CheckpointError, match="unk has the id 1, not 0"):
        Tokenizer.from_folder(tmp_path, CONFIG)


@pytest.mark.parametrize("change", [{"text_lang_ids": {"eng": PIECES}}, {"vocab_size": PIECES, "text_lang_ids": {}}])
def test_a_model_with_more_pieces_than_the_config_has_room_for_is_refused(change, folder):
    with pytest.raises(CheckpointError, match=f"{PIECES} pieces"):
        Tokenizer.from_folder(folder, dataclasses.replace(CONFIG, **change))


# Words, word starts, lone marks, digits, spaces, other scripts, marks that are not lone; 17 has no text at all.
TEXTS = ["<pad>", "<unk>", "<s>", "</s>", ".", ",", "!", "¿", "▁", "▁a", "▁the", "▁漢", "a", "ing", "ß", "7", "½", None]
TEXTS += ["²", "漢", "字典", "▁.", "...", "?!", "▁▁", "-", "'", "▁d'", "。", "Ⅳ", "é", "٣", "🙂", "▁🙂"]
CHARACTERS = {character: 4 + i for i, character in enumerate("▁.,!-'。aegihntd漢7½²ßNon")}  # others are unknown
CHAR_CONFIG = ModelConfig(
    vocab_size=len(TEXTS),
    char_vocab_size=40,
    id_to_text={i: text for i, text in enumerate(TEXTS) if text is not None},
    char_to_id=CHARACTERS,
)
MODEL: Any = SimpleNamespace(
    generation_config=SimpleNamespace(
        id_to_text={str(i): text for i, text in CHAR_CONFIG.id_to_text.items()}, char_to_id=CHARACTERS
    )
)


def reference_characters(rows: list[list[int]]) -> list[tuple[list[int], list[int]]]:
    """(character ids, counts) of every row by transformers."""
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    cls = SeamlessM4Tv2ForTextToSpeech
    texts = cls._indices_to_subwords(MODEL, tokens)
    counts = cls._count_character_length_in_subword(MODEL, tokens, texts)
    ids = cls._get_char_input_ids(MODEL, tokens, texts, counts)
    return [(ids[i, : int(counts[i].sum())].tolist(), counts[i, : len(row)].tolist()) for i, row in enumerate(rows)]


def expand(rows: list[list[int]]) -> list[tuple[list[int], list[int]]]:
    lengths = torch.tensor([0, *map(len, rows)])
    tokens = torch.tensor([token for row in rows for token in row], dtype=torch.int64)
    ids, counts = CharacterTable(CHAR_CONFIG).expand(tokens, lengths.cumsum(0).int())
    per_row = [int(part.sum()) for part in counts.split(lengths[1:].tolist())]
    assert len(ids) == int(counts.sum())
    return [
        (part.tolist(), count.tolist())
        for part, count in zip(ids.split(per_row), counts.split(lengths[1:].tolist()), strict=True)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_characters_equal_transformers(seed):
    rng = random.Random(seed)
    tokens = [token for token in range(1, len(TEXTS)) if token != 3]
    rows = [rng.choices(tokens, k=rng.randint(1, 12)) for _ in range(600)]
    assert expand(rows) == reference_characters(rows)


@pytest.mark.parametrize("end", [0, 3])
def test_a_row_has_no_characters_from_its_first_pad_or_eos_on(end):
    rng = random.Random(end)
    tokens = [token for token in range(1, len(TEXTS)) if token != 3]
    rows = [rng.choices(tokens, k=rng.randint(1, 8)) for _ in range(300)]
    tails = [[end, *rng.choices(range(len(TEXTS)), k=rng.randint(0, 3))] for _ in rows]
    expected = [(ids, counts + [0] * len(tail)) for (ids, counts), tail in zip(expand(rows), tails, strict=True)]
    assert expand([row + tail for row, tail in zip(rows, tails, strict=True)]) == expected


def test_the_space_after_a_lone_mark_belongs_to_the_mark():
    dot, the, a, digit = (TEXTS.index(text) for text in (".", "▁the", "a", "7"))
    counts = [counts for _, counts in expand([[dot, the], [dot, a], [digit, the], [dot, dot, the], [the, dot]])]
    assert counts == [[2, 3], [1, 1], [1, 4], [1, 2, 3], [4, 1]]


def test_neighbouring_rows_do_not_touch():
    dot, the = TEXTS.index("."), TEXTS.index("▁the")
    assert expand([[dot], [the]]) == [*expand([[dot]]), *expand([[the]])]


def test_no_tokens_have_no_characters():
    assert expand([]) == [] and expand([[], [3], []]) == [([], []), ([], [0]), ([], [])]


def test_a_character_id_outside_the_embedding_is_refused():
    with pytest.raises(CheckpointError, match="char_vocab_size 12"):
        CharacterTable(dataclasses.replace(CHAR_CONFIG, char_vocab_size=12))
