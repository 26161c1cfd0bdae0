"""Writes a checkpoint with random weights in the official folder format, for tests and benchmarks of any size.

The weights are scaled so that it behaves like a trained model where that matters: texts depend on the input and end by
themselves, durations are mostly above one, units are ones the vocoder has, the waveform is neither silent nor clipped.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import os
import string
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import sentencepiece
import torch
from safetensors.torch import save_file

from seamless_engine.config import ModelConfig
from seamless_engine.loading.tensor_table import SHARED_NAMES, UNIT_NAMES, vocoder_convolutions
from tools.random_weights import random_tensors

# All that the tokenizer knows: five scripts, digits, and punctuation both alone and inside words.
CORPUS = (
    "The train to the city leaves at 9:45, but the next one is at 10:30.",
    "Good morning! How are you today? I am very well, thank you.",
    "There are 3 cats, 12 dogs and 478 birds in the garden; nobody counted the fish.",
    'She said: "I don\'t know where my keys are", and went back to the house.',
    "The price is 19.99 (without tax), 25% less than it was in 2016.",
    "We would like to hear the whole story - slowly, from the beginning to the end.",
    "Le train pour la ville part à 9 h 45, mais le suivant est à 10 h 30.",
    "Bonjour ! Comment allez-vous aujourd'hui ? Je vais très bien, merci.",
    "Il y a 3 chats, 12 chiens et 478 oiseaux dans le jardin ; personne n'a compté les poissons.",
    "« Où est la clé ? » demanda-t-elle, puis elle retourna à la maison.",
    "Nous voudrions écouter toute l'histoire, lentement, du début à la fin.",
    "Der Zug in die Stadt fährt um 9:45 Uhr, der nächste aber erst um 10:30 Uhr.",
    "Guten Morgen! Wie geht es dir heute? Danke, es geht mir sehr gut.",
    "Im Garten sind 3 Katzen, 12 Hunde und 478 Vögel; die Fische hat niemand gezählt.",
    "Wir möchten die ganze Geschichte hören - langsam, vom Anfang bis zum Schluß.",
    "El tren a la ciudad sale a las 9:45, pero el siguiente sale a las 10:30.",
    "¡Buenos días! ¿Cómo estás hoy? Estoy muy bien, gracias.",
    "Hay 3 gatos, 12 perros y 478 pájaros en el jardín; nadie contó los peces.",
    "Quisiéramos escuchar toda la historia, despacio, desde el principio hasta el fin.",
    "Поезд в город уходит в 9:45, а следующий - в 10:30.",
    "Доброе утро! Как дела? Спасибо, очень хорошо.",
    "火车9点开。你好吗?我很好,谢谢。",
    "नमस्ते! आप कैसे हैं? मैं ठीक हूँ।",
)
LANGUAGES = ("eng", "fra", "deu", "spa", "rus", "cmn_Hant", "hin")

_JSON_TYPES = (int, float, str, tuple)  # the other fields of ModelConfig are maps of generation_config.json
_TAGS = ("<MINED_DATA>", "<MMT_BT_DATA>", "<SMT_BT_DATA>")
_SPECIALS = ("<pad>", "<unk>", "<s>", "</s>")
_MAX_TRAINED_PIECES = 1000  # the corpus has no more words than this
# Fields of config.json that say nothing to an inference engine.
_OTHER_FIELDS: dict[str, Any] = {
    "architectures": ["SeamlessM4Tv2Model"],
    "model_type": "seamless_m4t_v2",
    "is_encoder_decoder": True,
    "tie_word_embeddings": True,
    "use_cache": True,
    "initializer_range": 0.02,
    "max_position_embeddings": 4096,
    "t2u_max_position_embeddings": 4096,
    "t2u_decoder_ffn_dim": 8192,
}
_DROPOUTS = (
    "activation_dropout adaptor_dropout attention_dropout dropout speech_encoder_dropout encoder_layerdrop "
    "decoder_layerdrop speech_encoder_layerdrop t2u_encoder_layerdrop t2u_decoder_layerdrop var_pred_dropout "
    "t2u_variance_pred_dropout"
).split()


def write_checkpoint(
    folder: str | os.PathLike[str],
    overrides: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    languages: Sequence[str] = LANGUAGES,
    dtype: torch.dtype = torch.float32,
    shards: int = 1,
    weight_norm: Literal["folded", "legacy", "parametrized"] = "folded",
    shared_names: Sequence[str] = SHARED_NAMES[:1],
    unit_names: Sequence[str] = UNIT_NAMES[:1],
    underscored_maps: bool = False,
    device: str = "cpu",
    endless: bool = False,
) -> Path:
    """Write config.json, generation_config.json, the tokenizer and the weights of a random model into `folder`.

    overrides: fields of config.json that differ from v2-large; the official vocabulary layout is kept at any
        `vocab_size` (at least 160): specials, pieces, `languages`, three tags.
    languages: text languages. The first `vocoder_num_langs` of them can be spoken, one more is in the T2U map only.
    shards: number of weight files; above 1 there is an index file.
    weight_norm: spelling of the vocoder's convolutions (`weight`; `weight_g`, `weight_v`; `parametrizations...`).
    shared_names, unit_names: names under which the two tied matrices are stored.
    underscored_maps: spell the language maps' keys `__eng__`.
    device: where the numbers are drawn. The same seed gives others on a GPU than on a CPU.
    endless: texts never end by themselves, so that all have the length that is asked for.

    The same arguments write the same bytes.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    fields: dict[str, Any] = {
        f.name: f.default for f in dataclasses.fields(ModelConfig) if isinstance(f.default, _JSON_TYPES)
    }
    fields |= _OTHER_FIELDS | dict.fromkeys(_DROPOUTS, 0.0) | {"dtype": str(dtype).removeprefix("torch.")}
    fields |= dict(overrides or {})
    _write_json(folder / "config.json", fields)

    tokenizer = _train_tokenizer(fields["vocab_size"] - 1 - len(languages) - len(_TAGS))
    (folder / "sentencepiece.bpe.model").write_bytes(tokenizer)
    generation = _generation_config(fields, tokenizer, languages, underscored_maps)
    _write_json(folder / "generation_config.json", generation)
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(generation["id_to_text"], languages))
    _write_json(folder / "preprocessor_config.json", _PREPROCESSOR)

    config = ModelConfig.from_folder(folder)
    tensors = random_tensors(config, seed, device, endless)
    _spell_weight_norm(tensors, vocoder_convolutions(config), weight_norm)
    for official, names in ((SHARED_NAMES[0], shared_names), (UNIT_NAMES[0], unit_names)):
        tied = tensors.pop(official)
        tensors |= {name: tied.clone() for name in names}  # safetensors refuses two names for one memory
    _write_weights(folder, {name: tensor.to(dtype).cpu() for name, tensor in tensors.items()}, shards)
    return folder


def _train_tokenizer(num_pieces: int) -> bytes:
    """A BPE sentencepiece model of exactly `num_pieces`; those that the corpus cannot give are made up."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(  # pyright: ignore[reportAttributeAccessIssue]
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        vocab_size=min(num_pieces, _MAX_TRAINED_PIECES),
        model_type="bpe",
        normalization_rule_name="nmt_nfkc",
        character_coverage=1.0,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    pieces = _pieces(model.getvalue())
    missing = num_pieces - len(pieces)
    words = ("".join(letters) for letters in itertools.product(string.ascii_lowercase, repeat=4))
    spelled = (word if i % 3 else "▁" + word for i, word in enumerate(words))
    known = set(pieces)
    made_up = itertools.islice((piece for piece in spelled if piece not in known), missing)
    # A serialised protobuf is extended by appending to it: field 1 of the model is the repeated piece.
    return model.getvalue() + b"".join(_piece_record(p, -len(pieces) - i) for i, p in enumerate(made_up))


def _piece_record(piece: str, score: float) -> bytes:
    text = piece.encode()
    body = b"\x0a" + bytes([len(text)]) + text + b"\x15" + struct.pack("<f", score)  # 1: piece, 2: score
    return b"\x0a" + bytes([len(body)]) + body


def _pieces(model: bytes) -> list[str]:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [processor.id_to_piece(i) for i in range(processor.get_piece_size())]


def _generation_config(
    fields: Mapping[str, Any], tokenizer: bytes, languages: Sequence[str], underscored: bool
) -> dict[str, Any]:
    pieces = _pieces(tokenizer)
    texts = [*_SPECIALS, *pieces[3:], *(f"__{code}__" for code in languages), *_TAGS]
    chars = sorted(set("".join(pieces[3:])))[: fields["char_vocab_size"] - len(_SPECIALS)]
    spoken = languages[: fields["vocoder_num_langs"]]
    maps = {
        "text_decoder_lang_to_code_id": {code: len(pieces) + 1 + i for i, code in enumerate(languages)},
        "t2u_lang_code_to_id": {code: 43 + i for i, code in enumerate(languages[: len(spoken) + 1])},
        "vocoder_lang_code_to_id": {code: i for i, code in enumerate(sorted(spoken))},
    }
    if underscored:
        maps = {name: {f"__{code}__": index for code, index in table.items()} for name, table in maps.items()}
    return {
        "_from_model_config": False,  # true makes transformers drop the maps
        **{f"{name}_token_id": fields[f"{name}_token_id"] for name in ("pad", "bos", "eos", "decoder_start")},
        "max_new_tokens": fields["max_new_tokens"],
        **maps,
        "id_to_text": {str(i): text for i, text in enumerate(texts)},
        "char_to_id": {char: i for i, char in enumerate((*_SPECIALS, *chars))},
    }


_PREPROCESSOR = {
    "feature_extractor_type": "SeamlessM4TFeatureExtractor",
    "feature_size": 80,
    "num_mel_bins": 80,
    "sampling_rate": 16000,
    "stride": 2,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": True,
    "processor_class": "SeamlessM4TProcessor",
}


def _tokenizer_config(id_to_text: Mapping[str, str], languages: Sequence[str]) -> dict[str, Any]:
    codes = [f"__{code}__" for code in languages]
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    added = {i: {"content": text, **flags} for i, text in id_to_text.items() if text in _SPECIALS or text in codes}
    return {
        "tokenizer_class": "SeamlessM4TTokenizer",
        "added_tokens_decoder": added,
        "additional_special_tokens": codes,
        **dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), _SPECIALS, strict=True)),
        "cls_token": "<s>",
        "sep_token": "</s>",
        "clean_up_tokenization_spaces": True,
        "model_max_length": int(1e30),
        "sp_model_kwargs": {},
        "src_lang": codes[0],
        "tgt_lang": codes[1],
    }


def _spell_weight_norm(tensors: dict[str, torch.Tensor], convolutions: Sequence[str], spelling: str) -> None:
    if spelling == "folded":
        return
    gain, direction = {
        "legacy": ("weight_g", "weight_v"),
        "parametrized": ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    }[spelling]
    for i, name in enumerate(convolutions):
        weight = tensors.pop(f"{name}.weight")
        tensors[f"{name}.{gain}"] = torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True)
        tensors[f"{name}.{direction}"] = weight * (0.5 + i % 3)  # any length: only the direction counts


def _write_weights(folder: Path, tensors: Mapping[str, torch.Tensor], shards: int) -> None:
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
        return
    total = sum(tensor.nbytes for tensor in tensors.values())
    groups: list[dict[str, torch.Tensor]] = [{} for _ in range(shards)]
    written = 0
    for name, tensor in tensors.items():
        groups[written * shards // total][name] = tensor
        written += tensor.nbytes
    weight_map: dict[str, str] = {}
    for i, group in enumerate(groups):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        save_file(group, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(group, file)
    _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
