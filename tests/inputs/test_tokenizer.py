"""Text → tokens and back, and tokens → characters, compared with sentencepiece and transformers."""

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
def test_encode_equals_transformers_and_decode_restores_the_text(text, tokenizer, folder):
    reference = SeamlessM4TTokenizer.from_pretrained(
        folder, src_lang="eng", additional_special_tokens=["__eng__", "__fra__"]
    )
    ids = tokenizer.encode(text, "eng")
    assert ids == reference(text)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_encode_gives_language_pieces_and_eos(tokenizer, folder):
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / MODEL_FILE))
    for code, language in (("eng", PIECES + 1), ("fr", PIECES + 2)):
        ids = tokenizer.encode("the dog", code)
        assert ids == [language, *(piece + 1 for piece in model.encode("the dog")), 3]
        assert all(4 <= token <= PIECES for token in ids[1:-1])


def test_encode_gives_one_unknown_token_for_unknown_characters(tokenizer):
    ids = tokenizer.encode("the 漢字 dog", "eng")
    assert ids.count(1) == 1 and tokenizer.decode(ids).split() == ["the", "dog"]


@pytest.mark.parametrize("text", ["</s>", "__fra__", "<s> <pad>", "a </s> b __eng__"])
def test_encode_reads_names_of_special_tokens_as_text(text, tokenizer):
    ids = tokenizer.encode(text, "eng")
    assert ids[0] == PIECES + 1 and ids[-1] == 3
    assert all(token == 1 or 4 <= token <= PIECES for token in ids[1:-1])


def test_decode_leaves_out_special_language_and_control_ids(tokenizer):
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
def test_encode_refuses_text_that_cannot_be_translated(text, message, tokenizer):
    with pytest.raises(InputError, match=message):
        tokenizer.encode(text, "eng")


def test_encode_refuses_a_language_that_the_checkpoint_lacks(tokenizer):
    with pytest.raises(UnknownLanguageError, match="deu"):
        tokenizer.encode("the dog", "deu")


def test_from_folder_names_a_model_file_that_cannot_be_opened(tmp_path):
    (tmp_path / MODEL_FILE).mkdir()
    with pytest.raises(CheckpointError, match=f"{MODEL_FILE} cannot be read: Is a directory"):
        Tokenizer.from_folder(tmp_path, CONFIG)


@pytest.mark.parametrize("content", [b"", b"not a model" * 50])
def test_from_folder_refuses_a_damaged_model_file(content, tmp_path):
    (tmp_path / MODEL_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match="not a sentencepiece model"):
        Tokenizer.from_folder(tmp_path, CONFIG)


def test_from_folder_refuses_a_model_with_other_special_ids(tmp_path):
    (tmp_path / MODEL_FILE).write_bytes(train(unk_id=1, bos_id=0))
    with pytest.raises(CheckpointError, match="unk has the id 1, not 0"):
        Tokenizer.from_folder(tmp_path, CONFIG)


@pytest.mark.parametrize("change", [{"text_lang_ids": {"eng": PIECES}}, {"vocab_size": PIECES, "text_lang_ids": {}}])
def test_from_folder_refuses_a_model_with_too_many_pieces(change, folder):
    with pytest.raises(CheckpointError, match=f"{PIECES} pieces"):
        Tokenizer.from_folder(folder, dataclasses.replace(CONFIG, **change))


# Words, word starts, single marks, digits, spaces, other scripts, several marks; token 17 has no text.
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


def reference_characters(sentences: list[list[int]]) -> list[tuple[list[int], list[int]]]:
    """(character ids, counts) of every sentence by transformers."""
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(sentence) for sentence in sentences], batch_first=True)
    cls = SeamlessM4Tv2ForTextToSpeech
    texts = cls._indices_to_subwords(MODEL, tokens)
    counts = cls._count_character_length_in_subword(MODEL, tokens, texts)
    ids = cls._get_char_input_ids(MODEL, tokens, texts, counts)
    return [
        (ids[i, : int(counts[i].sum())].tolist(), counts[i, : len(sentence)].tolist())
        for i, sentence in enumerate(sentences)
    ]


def expand(sentences: list[list[int]]) -> list[tuple[list[int], list[int]]]:
    lengths = torch.tensor([0, *map(len, sentences)])
    tokens = torch.tensor([token for sentence in sentences for token in sentence], dtype=torch.int64)
    ids, counts = CharacterTable(CHAR_CONFIG).expand(tokens, lengths.cumsum(0).int())
    per_row = [int(part.sum()) for part in counts.split(lengths[1:].tolist())]
    assert len(ids) == int(counts.sum())
    return [
        (part.tolist(), count.tolist())
        for part, count in zip(ids.split(per_row), counts.split(lengths[1:].tolist()), strict=True)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_expand_equals_transformers(seed):
    rng = random.Random(seed)
    tokens = [token for token in range(1, len(TEXTS)) if token != 3]
    sentences = [rng.choices(tokens, k=rng.randint(1, 12)) for _ in range(600)]
    assert expand(sentences) == reference_characters(sentences)


@pytest.mark.parametrize("end", [0, 3])
def test_expand_gives_no_characters_from_the_first_pad_or_eos_on(end):
    rng = random.Random(end)
    tokens = [token for token in range(1, len(TEXTS)) if token != 3]
    sentences = [rng.choices(tokens, k=rng.randint(1, 8)) for _ in range(300)]
    tails = [[end, *rng.choices(range(len(TEXTS)), k=rng.randint(0, 3))] for _ in sentences]
    expected = [(ids, counts + [0] * len(tail)) for (ids, counts), tail in zip(expand(sentences), tails, strict=True)]
    assert expand([sentence + tail for sentence, tail in zip(sentences, tails, strict=True)]) == expected


def test_expand_counts_the_space_after_a_single_mark_for_the_mark():
    dot, the, a, digit = (TEXTS.index(text) for text in (".", "▁the", "a", "7"))
    counts = [counts for _, counts in expand([[dot, the], [dot, a], [digit, the], [dot, dot, the], [the, dot]])]
    assert counts == [[2, 3], [1, 1], [1, 4], [1, 2, 3], [4, 1]]


def test_expand_keeps_neighbouring_texts_apart():
    dot, the = TEXTS.index("."), TEXTS.index("▁the")
    assert expand([[dot], [the]]) == [*expand([[dot]]), *expand([[the]])]


def test_expand_gives_nothing_for_no_tokens():
    assert expand([]) == [] and expand([[], [3], []]) == [([], []), ([], [0]), ([], [])]


def test_character_table_refuses_an_id_outside_the_embedding():
    with pytest.raises(CheckpointError, match="char_vocab_size 12"):
        CharacterTable(dataclasses.replace(CHAR_CONFIG, char_vocab_size=12))
