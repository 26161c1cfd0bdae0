"""The arguments of `seamless-engine run` and `merge`, and the file that may hold them."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import os
import tomllib
from collections.abc import Mapping
from typing import Any

from seamless_engine.cli_options import DEFAULT_MODEL, add_field
from seamless_engine.config import EngineConfig
from seamless_engine.errors import UsageError
from seamless_engine.request import DecodingParams

RUN = """\
Answer any number of clips or texts, through crashes and restarts. Texts go to OUTPUT_DIR/results.jsonl, speech to
OUTPUT_DIR/audio, failures to OUTPUT_DIR/errors.jsonl, and everything else to stderr. The same command goes on where
the last one ended, and tries again what failed.

inputs:
  clips/                   a folder: all clips in it and below it
  'clips/**/*.mp3'         a pattern
  clip.wav                 a clip
  list.jsonl .tsv .csv .parquet
                           a manifest: each line has audio or text, and may have id, task, languages, speaker_id,
                           offset, duration and params; docs/jobs.md has all keys, those of NeMo and m4t too
  lines.txt, -             a text on each line, of a file or of stdin"""
RUN_EXAMPLES = """\
examples:
  seamless-engine run clips/ --task asr --tgt_lang eng --output_dir out
  seamless-engine run clips/ --task asr:eng,s2tt:fra,s2st:deu --output_dir out --formats srt
  seamless-engine run list.jsonl --config job.toml --output_dir out --shard 1/4
  seamless-engine merge out

exit codes: 0 all items have results, 1 some failed or the results could not be written, 2 the command is wrong,
3 the model cannot be used, 4 out of memory, 130 interrupted"""
MERGE = """\
Join the results of shards, or of several output folders, in one results.jsonl, errors.jsonl and run.json. An item
that was answered twice is kept once. Results of different options are refused."""

_TEXTS = {
    "task": "what to do with each input: asr, s2tt, s2st, t2tt, t2st; or several, as in asr:eng,s2tt:fra,s2tt:deu",
    "tgt_lang": "code of the language to produce, for example fra, where the task does not name it",
    "src_lang": "code of the language of texts; for asr, of the speech",
    "output_dir": "folder of the results; it is made if there is none",
    "model": f"checkpoint folder or hub id (default: {DEFAULT_MODEL})",
    "device": "auto (the default), cpu, cuda, cuda:1, ...",
    "dtype": "auto (the default), float32, float16 or bfloat16",
    "segment": "cut clips at pauses, and texts into sentences: auto (the default: clips above 20 s), always, never",
    "audio_root": "folder where relative paths of manifests start (default: that of the manifest)",
    "audio_format": "of speech: wav (the default) or flac",
    "formats": "files to write for each item, too: of txt, srt, vtt, tsv, json, with commas between them",
    "shard": "k/n: take only the k-th of n parts of the items; the parts may run beside one another",
}
_NUMBERS = {"speaker_id": "number of the voice, for s2st and t2st", "limit": "take the first so many items only"}
_SWITCHES = {
    "meta": "take the choices of Meta's m4t_predict, such as five beams; options below override them",
    "check_weights": "refuse a checkpoint with NaN or infinite weights",
    "overwrite": "drop the results that are there, and begin again",
    "keep_errors": "do not try again what failed before",
    "check": "check everything, headers of clips too, without the model, and print what is wrong",
}
_DEFAULTS: dict[str, Any] = {
    "model": DEFAULT_MODEL,
    "device": "auto",
    "dtype": "auto",
    "segment": "auto",
    "audio_format": "wav",
    "formats": "",
    "segmentation": {},
    **dict.fromkeys(_SWITCHES, False),
}
_PARAMS = [field.name for field in dataclasses.fields(DecodingParams)]
_CONFIG = {  # option → field of EngineConfig
    f"engine_{field.name}" if field.name in _PARAMS else field.name: field.name
    for field in dataclasses.fields(EngineConfig)
}


def add_run(command: argparse.ArgumentParser) -> None:
    command.usage = "%(prog)s INPUT [INPUT ...] --task TASK --tgt_lang LANG --output_dir DIR [options]"
    command.add_argument("input", nargs="+", help="see above")
    command.add_argument("--config", metavar="FILE", help="TOML or JSON file with options by name; those here win")
    for name, text in _TEXTS.items():
        command.add_argument(f"--{name}", default=argparse.SUPPRESS, help=text)
    for name, text in _NUMBERS.items():
        command.add_argument(f"--{name}", type=int, default=argparse.SUPPRESS, help=text)
    for name, text in _SWITCHES.items():
        command.add_argument(f"--{name}", action="store_true", default=argparse.SUPPRESS, help=text)
    command.add_argument(
        "--segmentation",
        default=argparse.SUPPRESS,
        metavar="JSON",
        help="how to cut: fields of Segmentation, as in '{\"min_silence\": 0.5}'",
    )
    group = command.add_argument_group(
        "decoding", "Names and defaults are those of transformers. Values look like 5, 0.7, true or [12, 9]."
    )
    for name in _PARAMS:
        add_field(group, DecodingParams, name)
    group = command.add_argument_group("engine")
    for option, name in _CONFIG.items():
        add_field(group, EngineConfig, name, option)


def add_merge(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", nargs="+", help="output folders of `run`")
    command.add_argument("--output_dir", help="where the joined files go (default: the first folder)")


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `run`: the defaults, over them the file, over that the command line. Raises UsageError."""
    given = {name: value for name, value in vars(args).items() if name not in ("run", "config", "input")}
    options = _DEFAULTS | (_read(args.config) if args.config else {}) | given
    for name in _TEXTS:
        if not isinstance(options.get(name, ""), str):
            raise UsageError(f"{name} must be a string, not {options[name]!r}")
    for name in _NUMBERS:
        number = options.get(name, 0)
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise UsageError(f"{name} must be a number from 0 on, not {number!r}")
    for name in _SWITCHES:
        if not isinstance(options[name], bool):
            raise UsageError(f"{name} must be true or false, not {options[name]!r}")
    if isinstance(options["segmentation"], str):
        options["segmentation"] = _json("--segmentation", options["segmentation"])
    if not isinstance(options["segmentation"], dict):
        raise UsageError(f'segmentation must be like {{"min_silence": 0.5}}, not {options["segmentation"]!r}')
    return options


def decoding_of(options: Mapping[str, Any]) -> DecodingParams:
    """Raises UsageError."""
    chosen = {name: options[name] for name in _PARAMS if name in options}
    return DecodingParams.meta(**chosen) if options["meta"] else DecodingParams(**chosen)


def config_of(options: Mapping[str, Any]) -> EngineConfig:
    """Raises UsageError."""
    chosen = {name: options[option] for option, name in _CONFIG.items() if option in options}
    if isinstance(chosen.get("int8"), str):
        chosen["int8"] = tuple(chosen["int8"].split(","))
    return EngineConfig(**chosen)


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        found = tomllib.loads(text) if os.path.splitext(path)[1].lower() == ".toml" else _json(path, text)
    except (OSError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds no options by name")
    known = [*_TEXTS, *_NUMBERS, *_SWITCHES, "segmentation", *_PARAMS, *_CONFIG]
    for name in found:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise UsageError(f"{path}: there is no option {name!r}" + (f": did you mean {near[0]}?" if near else ""))
    return found


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name} is no JSON: {error}") from None
