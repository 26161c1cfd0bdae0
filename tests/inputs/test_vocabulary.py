"""tokenizer.json, which transformers 5 saves: ids and texts equal those of transformers, and faults are reported."""

from __future__ import annotations

import base64
import dataclasses
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import sentencepiece_model_pb2
from transformers import AutoTokenizer

import support.oracle  # noqa: F401 (keeps transformers quiet)
from seamless_engine import CheckpointError, InputError
from seamless_engine.config import ModelConfig
from seamless_engine.inputs.tokenizer import Tokenizer
from seamless_engine.inputs.vocabulary import JSON_FILE, MODEL_FILE, open_vocabulary

PLAIN = [
    "The train to the city leaves at 9:45, but the next one is at 10:30.",
    "« Où est la clé ? » demanda-t-elle",
    "Доброе утро! Как дела?",
    "火车9点开。你好吗?",
    "नमस्ते! आप कैसे हैं?",
    "  two  spaces,\ta tab\nand a line  ",
    "e\u0301 é ﬁne ½ ² Å ＡＢＣ … “quoted” \u3000wide\u00a0space",
    "مرحبا 🙂 안녕 ok",
]
ODD = ["zero\u200bwidth", "\ufeffmark", "a\x01b", "a\u2028b", "▁▁a", "a ▁", "soft\u00adhyphen", "a\u200db"]
SPECIAL = ["</s> a", "a <s> b", "__fra__ hello", "<unk>", "<pad>x"]
ALPHABET = "   abcdeilnorst.,!?'-0123éàß\t\u00a0\u200b\u00ad▁火车नमПд🙂ﬁ\u0301"


def random_texts(count: int) -> list[str]:
    rng = random.Random(0)
    return ["".join(rng.choices(ALPHABET, k=rng.randint(1, 25))) for _ in range(count)]


@pytest.fixture(scope="module")
def original(checkpoint: Callable[..., Path]) -> Path:
    return checkpoint(0)


@pytest.fixture(scope="module")
def config(original: Path) -> ModelConfig:
    return ModelConfig.from_folder(original)


@pytest.fixture(scope="module")
def saved(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tokenizer as transformers saves it."""
    folder = tmp_path_factory.mktemp("saved")
    AutoTokenizer.from_pretrained(original).save_pretrained(folder)
    assert (folder / JSON_FILE).exists() and not (folder / MODEL_FILE).exists()
    return folder


@pytest.fixture(scope="module")
def theirs(saved: Path) -> Any:
    tokenizer: Any = AutoTokenizer.from_pretrained(saved)
    tokenizer.src_lang = "eng"
    return tokenizer


def changed(saved: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    content = json.loads((saved / JSON_FILE).read_text(encoding="utf-8"))
    change(content)
    (folder / JSON_FILE).write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_encode_gives_the_ids_of_transformers(saved: Path, config: ModelConfig, theirs: Any) -> None:
    ours = Tokenizer.from_folder(saved, config)
    texts = [*PLAIN, *ODD, *random_texts(1000)]
    for text in texts:
        expected = theirs(text)["input_ids"]
        if len(expected) == 2:  # only language and eos
            with pytest.raises(InputError, match="empty"):
                ours.encode(text, "eng")
        else:
            assert ours.encode(text, "eng") == expected, text


def test_encode_reads_names_of_special_tokens_as_text_with_either_file(
    saved: Path, config: ModelConfig, theirs: Any
) -> None:
    ours = Tokenizer.from_folder(saved, config)
    for text in SPECIAL:
        ids = ours.encode(text, "eng")
        assert ids == theirs(text, split_special_tokens=True)["input_ids"]
        assert all(token == 1 or 4 <= token < min(config.text_lang_ids.values()) for token in ids[1:-1])


def test_encode_gives_the_same_ids_with_either_file(original: Path, saved: Path, config: ModelConfig) -> None:
    model, json_file = Tokenizer.from_folder(original, config), Tokenizer.from_folder(saved, config)
    for text in PLAIN:
        assert json_file.encode(text, "eng") == model.encode(text, "eng"), text


def test_encode_normalises_as_the_file_says(original: Path, saved: Path, config: ModelConfig, tmp_path: Path) -> None:
    proto = sentencepiece_model_pb2.ModelProto.FromString((original / MODEL_FILE).read_bytes())  # pyright: ignore
    charsmap = base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()

    def as_transformers_4(content: dict[str, Any]) -> None:
        content["normalizer"] = {
            "type": "Sequence",
            "normalizers": [
                {"type": "Precompiled", "precompiled_charsmap": charsmap},
                {"type": "Strip", "strip_left": False, "strip_right": True},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
            ],
        }

    ours = Tokenizer.from_folder(changed(saved, tmp_path, as_transformers_4), config)
    model = Tokenizer.from_folder(original, config)
    for text in [*PLAIN, *ODD[:4]]:
        assert ours.encode(text, "eng") == model.encode(text, "eng"), text


def test_decode_gives_the_text_of_transformers(original: Path, saved: Path, config: ModelConfig, theirs: Any) -> None:
    model, json_file = Tokenizer.from_folder(original, config), Tokenizer.from_folder(saved, config)
    rng = random.Random(1)
    for _ in range(500):
        ids = rng.choices(range(config.vocab_size), k=rng.randint(0, 20))
        expected = theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
        assert json_file.decode(ids) == model.decode(ids) == expected


def test_encode_uses_words_that_were_added_to_the_tokenizer(
    original: Path, config: ModelConfig, tmp_path: Path
) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(original)
    tokenizer.add_tokens(["Zweisimmen"])
    tokenizer.save_pretrained(tmp_path)
    (added,) = tokenizer.convert_tokens_to_ids(["Zweisimmen"])
    wider = dataclasses.replace(config, vocab_size=added + 1)
    ours = Tokenizer.from_folder(tmp_path, wider)
    tokenizer.src_lang = "eng"
    ids = ours.encode("the train to Zweisimmen", "eng")
    assert ids == tokenizer("the train to Zweisimmen")["input_ids"] and added in ids
    assert ours.decode(ids).split() == ["the", "train", "to", "Zweisimmen"]
    with pytest.raises(CheckpointError, match=f"past vocab_size {added}:"):
        Tokenizer.from_folder(tmp_path, dataclasses.replace(config, vocab_size=added))
    shutil.copy(original / MODEL_FILE, tmp_path)
    with pytest.raises(CheckpointError, match="'Zweisimmen': remove the file"):
        Tokenizer.from_folder(tmp_path, wider)


def test_open_vocabulary_accepts_both_files_and_refuses_files_that_differ(
    original: Path, saved: Path, config: ModelConfig, tmp_path: Path
) -> None:
    shutil.copy(saved / JSON_FILE, tmp_path)
    shutil.copy(original / MODEL_FILE, tmp_path)
    for text in ODD:  # the rules of sentencepiece
        expected = open_vocabulary(original, config).encode(text)
        assert open_vocabulary(tmp_path, config).encode(text) == expected

    def swap(content: dict[str, Any]) -> None:
        vocab = content["model"]["vocab"]
        names = [name for name, index in vocab.items() if index in (20, 21)]
        vocab[names[0]], vocab[names[1]] = vocab[names[1]], vocab[names[0]]

    changed(saved, tmp_path, swap)
    with pytest.raises(CheckpointError, match="do not have the same tokens"):
        open_vocabulary(tmp_path, config)


def test_open_vocabulary_refuses_a_folder_without_either_file(tmp_path: Path, config: ModelConfig) -> None:
    with pytest.raises(CheckpointError, match=f"neither {MODEL_FILE} nor {JSON_FILE}"):
        open_vocabulary(tmp_path, config)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1, 2]", b"\xff\xfe", b'{"version": "1.0", "model": {"type": "BPE"'])
def test_open_vocabulary_refuses_a_damaged_tokenizer_json(tmp_path: Path, config: ModelConfig, content: bytes) -> None:
    (tmp_path / JSON_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a tokenizer"):
        open_vocabulary(tmp_path, config)


def _swap_special(content: dict[str, Any]) -> None:
    vocab = content["model"]["vocab"]
    vocab["<pad>"], vocab["<unk>"] = 1, 0
    content["added_tokens"] = []
    content["post_processor"] = None


def _swap_languages(content: dict[str, Any]) -> None:
    first, second = (token for token in content["added_tokens"] if token["content"] in ("__eng__", "__fra__"))
    first["content"], second["content"] = second["content"], first["content"]


def _draw(content: dict[str, Any]) -> None:
    content["model"]["dropout"] = 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_swap_special, "<pad> has the id 1, not 0"),
        (_swap_languages, "in generation_config.json .* belongs to another checkpoint"),
        (_draw, "has dropout"),
    ],
)
def test_open_vocabulary_refuses_a_tokenizer_json_of_another_model(
    saved: Path, config: ModelConfig, tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_vocabulary(changed(saved, tmp_path, change), config)


def test_open_vocabulary_refuses_a_tokenizer_json_with_too_many_pieces(saved: Path, config: ModelConfig) -> None:
    fewer = {code: index - 1 for code, index in config.text_lang_ids.items()}
    with pytest.raises(CheckpointError, match="belongs to another checkpoint"):
        open_vocabulary(saved, dataclasses.replace(config, text_lang_ids=fewer))
    with pytest.raises(CheckpointError, match="run into those of the languages"):
        open_vocabulary(saved, dataclasses.replace(config, text_lang_ids={"xyz": 200}))
