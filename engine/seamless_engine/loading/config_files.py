"""Reads and checks the json files of a checkpoint: config.json, generation_config.json, the processor's settings."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seamless_engine.errors import CheckpointError

# The settings of the features that the engine computes from audio.
FEATURES = {"sampling_rate": 16_000, "num_mel_bins": 80, "stride": 2}
# Fields of config.json that may be null, which means that they are not set.
NULLABLE = ("max_new_tokens", "eos_token_id", "decoder_start_token_id", "pad_token_id", "bos_token_id")

_FEATURE_FILES = {"preprocessor_config.json": None, "processor_config.json": "feature_extractor"}
_NEVER_WRITTEN = (0, 2, 3)  # <pad>, <s>, </s>
_MAX_JSON_BYTES = 64 << 20  # the published generation_config.json has 10 MB
# Both files may have these; as in transformers, generation_config.json takes precedence.
_GENERATION_NUMBERS = ("max_new_tokens", "eos_token_id", "decoder_start_token_id")


def read_json(path: Path) -> dict[str, Any]:
    """The content of the file. Raises CheckpointError if it is missing, too large or not a JSON object."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise CheckpointError(f"{path} has more than {_MAX_JSON_BYTES >> 20} MiB: not a configuration file")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} is missing: a checkpoint in the transformers format has config.json, generation_config.json, "
            "sentencepiece.bpe.model or tokenizer.json, and *.safetensors"
        ) from None
    except (ValueError, RecursionError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: the top level must be an object")
    return content


def typed(path: Path, name: str, value: Any, default: Any) -> Any:
    """`value` in the type of `default`. Sizes and counts must be positive, ids must not be negative.

    Raises CheckpointError.
    """
    if name == "eos_token_id" and isinstance(value, list):
        value = _only_end(path, value)
    if isinstance(default, bool):
        ok = isinstance(value, bool)
    elif isinstance(default, int):
        low = 0 if name.endswith("_token_id") or name == "vocoder_offset" else 1
        if name == "speech_encoder_left_chunk_num":
            low = -1
        ok = isinstance(value, int) and not isinstance(value, bool) and low <= value < 2**31
    elif isinstance(default, float):
        ok = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
        value = float(value) if ok else value
    elif isinstance(default, tuple):
        ok = isinstance(value, list | tuple) and len(value) > 0
        if ok and isinstance(default[0], tuple):
            return tuple(typed(path, name, entry, default[0]) for entry in value)
        ok = ok and all(isinstance(v, int) and not isinstance(v, bool) and 1 <= v < 2**16 for v in value)
        value = tuple(value) if ok else value
    else:
        ok = isinstance(value, str)
    if not ok:
        raise CheckpointError(f"{path}: {name} is {value!r}, expected something like {default!r}")
    return value


def _only_end(path: Path, ids: list[Any]) -> Any:
    """The first of several eos ids. Raises CheckpointError if a trained model can generate one of the others."""
    if not ids or not all(index in (ids[0], *_NEVER_WRITTEN) for index in ids):
        raise CheckpointError(f"{path}: eos_token_id is {ids!r}, and a text ends with one token here: keep that one")
    if any(index != ids[0] for index in ids):
        warnings.warn(
            f"{path}: eos_token_id is {ids!r}; a text ends with {ids[0]} here, and with no other", stacklevel=2
        )
    return ids[0]


def generation_values(path: Path) -> dict[str, Any]:
    """The fields of ModelConfig that generation_config.json sets. Raises CheckpointError."""
    raw = read_json(path)
    text = _language_map(path, raw, "text_decoder_lang_to_code_id")
    if not text:
        raise CheckpointError(f"{path}: text_decoder_lang_to_code_id is missing or empty")
    id_to_text = _mapping(path, raw, "id_to_text", str)
    if not all(key.isdecimal() for key in id_to_text):
        raise CheckpointError(f"{path}: the keys of id_to_text must be numbers")
    numbers = {name: typed(path, name, raw[name], 1) for name in _GENERATION_NUMBERS if raw.get(name) is not None}
    return numbers | {
        "text_lang_ids": text,
        "t2u_langs": frozenset(_language_map(path, raw, "t2u_lang_code_to_id")),
        "vocoder_lang_ids": _language_map(path, raw, "vocoder_lang_code_to_id"),
        "id_to_text": {int(key): piece for key, piece in id_to_text.items()},
        "char_to_id": _mapping(path, raw, "char_to_id", int),
    }


def check_features(folder: Path) -> None:
    """Raises CheckpointError if the checkpoint needs features that the engine does not compute."""
    for name, part in _FEATURE_FILES.items():
        if not (folder / name).exists():
            continue
        content = read_json(folder / name)
        settings = content if part is None else content.get(part)
        if not isinstance(settings, dict):
            continue
        for field_name, value in FEATURES.items():
            if settings.get(field_name, value) != value:
                raise CheckpointError(
                    f"{folder / name}: {field_name} is {settings[field_name]!r}; this engine supports {value!r} only"
                )


def _mapping(path: Path, raw: Mapping[str, Any], name: str, kind: type) -> dict[str, Any]:
    value = raw.get(name) or {}
    if not isinstance(value, dict) or not all(isinstance(v, kind) for v in value.values()):
        raise CheckpointError(f"{path}: {name} must map to {kind.__name__}")
    return value


def _language_map(path: Path, raw: Mapping[str, Any], name: str) -> dict[str, int]:
    """A map from language codes, which older files spell `__fra__` and newer files `fra`."""
    return {code.replace("__", ""): index for code, index in _mapping(path, raw, name, int).items()}
