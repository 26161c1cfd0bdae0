"""Entries → items: one clip or text with one task and one language, checked without the model."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from seamless_engine.errors import SeamlessError, UnknownLanguageError, UsageError
from seamless_engine.jobs.clips import Part
from seamless_engine.jobs.manifest import AUDIO, TEXT, Entry
from seamless_engine.jobs.names import hash_of, is_in_shard
from seamless_engine.request import SPEECH_IN, SPEECH_OUT, TASKS, DecodingParams, Request

Check = Callable[[Request], str]  # raises UsageError; returns the checkpoint's code of the target language
Tasks = tuple[tuple[str, str | None], ...]

_TASK_NAMES = {"ast": "s2tt", "s2t_translation": "s2tt", "transcribe": "asr"}  # of NeMo's manifests
_LONGEST_ID = 4096
_PARAMS = [one.name for one in dataclasses.fields(DecodingParams)]


@dataclass(frozen=True)
class Defaults:
    """What holds for an entry that does not say otherwise. audio_root: where relative paths of manifests start; None is
    the folder of the manifest. segment: of `Request`, for all."""

    tasks: Tasks = ()
    src_lang: str | None = None
    tgt_lang: str | None = None
    speaker_id: int | None = None
    params: DecodingParams = field(default_factory=DecodingParams)
    segment: Any = None
    audio_root: str | None = None


@dataclass(slots=True, eq=False)
class Item:
    """part: of a clip, which replaces the request's audio when the item's turn comes. hash: of what the entry says."""

    id: str
    task: str
    tgt_lang: str
    place: str
    fields: dict[str, Any]
    hash: str
    request: Request
    part: Part | None = None


@dataclass(slots=True, eq=False)
class Rejected:
    """An item, or a whole entry if it has no task, that cannot be asked. kind: as in errors.jsonl."""

    id: str
    task: str | None
    tgt_lang: str | None
    place: str
    fields: dict[str, Any]
    kind: str
    message: str


def parse_tasks(text: Any) -> Tasks:
    """`asr,s2tt:fra,s2st:deu` as ((task, language or None), …). Raises UsageError."""
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"task must be a string such as 'asr' or 's2tt:fra,s2tt:deu', not {text!r}")
    found = []
    for one in text.split(","):
        name, _, language = one.strip().partition(":")
        task = _TASK_NAMES.get(name.lower(), name.lower())
        if task not in TASKS:
            raise UsageError(f"unknown task {name!r}: use one of {', '.join(TASKS)}")
        found.append((task, language or None))
    if len(set(found)) < len(found):
        raise UsageError(f"{text} names a task twice")
    return tuple(found)


def items_of(entry: Entry, defaults: Defaults, check: Check, shard: tuple[int, int]) -> Iterator[Item | Rejected]:
    """An item for each task of an entry; none of an entry of another shard."""
    id = entry.place
    try:
        if entry.problem is not None:
            raise _Malformed(entry.problem)
        fields = _flat(entry.fields)
        id = _id_of(entry, fields)
        if not is_in_shard(id, shard):
            return
        given = _first(fields, "task", "taskname")
        tasks = defaults.tasks if given is None else parse_tasks(given)
        if not tasks:
            raise UsageError("the entry has no task, and --task is not given")
        values = _Values(entry, fields, defaults)
    except (_Malformed, UsageError) as error:
        kind = "manifest" if isinstance(error, _Malformed) else kind_of(error)
        if not is_in_shard(id, shard):
            return
        yield Rejected(id, None, None, entry.place, entry.fields, kind, str(error))
        return
    for task, language in tasks:
        try:
            yield values.item(id, task, language, check)
        except UsageError as error:
            yield Rejected(
                id, task, language or values.language(task), entry.place, entry.fields, kind_of(error), str(error)
            )


def kind_of(error: SeamlessError) -> str:
    """The word for a class of errors in errors.jsonl: `UnknownLanguageError` is `unknown_language`."""
    if isinstance(error, UnknownLanguageError):
        return "unknown_language"
    if getattr(error, "out_of_memory", False):
        return "out_of_memory"
    return type(error).__name__.removesuffix("Error").lower().replace("seamless", "engine")


class _Malformed(ValueError):
    pass


class _Values:
    """What an entry says of the request, with the defaults. Raises UsageError for a value of the wrong type."""

    def __init__(self, entry: Entry, fields: Mapping[str, Any], defaults: Defaults) -> None:
        self._entry = entry
        self._defaults = defaults
        self._src = _code(fields, "src_lang", "source_lang")
        self._tgt = _code(fields, "tgt_lang", "target_lang")
        self._text = _first(fields, *TEXT)
        self._speaker = _first(fields, "speaker_id")  # of the speaker who is heard, where no speech is made
        self._params = _params(_first(fields, "params"), defaults.params)
        self._audio = self._find_audio(_first(fields, *AUDIO))
        offset, duration = (_seconds(name, _first(fields, name)) for name in ("offset", "duration"))
        self._part = None
        if self._audio is not None and (offset or duration is not None):
            self._part = Part(self._audio, offset or 0.0, duration)

    def language(self, task: str) -> str | None:
        """Of the target, if the task does not name it: for asr, the spoken language comes first."""
        src, tgt = self._defaults.src_lang, self._defaults.tgt_lang
        return (self._src or self._tgt or src or tgt) if task == "asr" else self._tgt or tgt

    def item(self, id: str, task: str, language: str | None, check: Check) -> Item:
        target = language or self.language(task)
        if target is None:
            raise UsageError(f"{task} needs the language to produce: tgt_lang of the entry, {task}:fra, or --tgt_lang")
        listens = task in SPEECH_IN
        src = None if listens else self._src or self._defaults.src_lang
        speaker = None
        if task in SPEECH_OUT:
            speaker = self._defaults.speaker_id if self._speaker is None else _integer("speaker_id", self._speaker)
        request = Request(
            task,
            target,
            audio=self._audio if listens else None,
            text=None if listens else self._text,
            src_lang=src,
            speaker_id=speaker,
            params=self._params,
            segment=self._defaults.segment,
        )
        identity = self._entry.fields
        if self._entry.folder is None and "audio" in identity:
            identity = {"audio": os.path.abspath(identity["audio"])}
        given = _params_given(self._params, self._defaults.params)
        hash = hash_of(identity, src, speaker, given)
        part = self._part if listens else None
        return Item(id, task, check(request), self._entry.place, self._entry.fields, hash, request, part)

    def _find_audio(self, audio: Any) -> str | bytes | None:
        if isinstance(audio, Mapping):  # an audio column of `datasets`
            audio = audio.get("path") if audio.get("bytes") is None else audio["bytes"]
        if isinstance(audio, str):
            root = self._entry.folder if self._entry.folder is None else self._defaults.audio_root or self._entry.folder
            return audio if root is None else os.path.join(root, audio)
        if audio is None or isinstance(audio, bytes):
            return audio
        raise UsageError(f"the audio of an entry is a path, not {audio!r:.80}")


def _flat(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields, with those of m4t_prepare_dataset, which are nested in `source` and `target`, beside them."""
    source, target = fields.get("source"), fields.get("target")
    if not isinstance(source, dict):
        return fields
    nested = {"text": source.get("text"), "src_lang": source.get("lang"), "audio": source.get("audio_local_path")}
    if isinstance(target, dict):
        nested["tgt_lang"] = target.get("lang")
    if source.get("id") is not None:
        nested["id"] = str(source["id"])
    return nested | fields


def _id_of(entry: Entry, fields: Mapping[str, Any]) -> str:
    given = _first(fields, "id")
    if given is None:
        return entry.id or _derived(entry, fields)
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise _Malformed(f"id must be a string or an integer, not {given!r:.80}")
    id = str(given)
    if len(id) > _LONGEST_ID:
        raise _Malformed(f"id has more than {_LONGEST_ID} characters")
    _check_characters("id", id)
    return id


def _derived(entry: Entry, fields: Mapping[str, Any]) -> str:
    """The path of its audio, with the part of it; or its place."""
    audio = _first(fields, *AUDIO)
    path = audio.get("path") if isinstance(audio, Mapping) else audio
    if not isinstance(path, str) or not path or len(path) > _LONGEST_ID:
        return entry.place
    _check_characters("the path of the audio", path)
    offset, duration = _first(fields, "offset"), _first(fields, "duration")
    part = f"@{offset}" + (f"+{duration}" if duration is not None else "")
    return os.path.normpath(path) + (part if offset is not None else "")


def _check_characters(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _Malformed(f"{name} has half a surrogate pair: {text!r:.80}") from None


def _first(fields: Mapping[str, Any], *names: str) -> Any:
    """The value of the first of these names that has one."""
    for name in names:
        value = fields.get(name)
        if value is not None and value != "":
            return value
    return None


def _code(fields: Mapping[str, Any], *names: str) -> str | None:
    code = _first(fields, *names)
    if code is not None and not isinstance(code, str):
        raise UsageError(f"{names[0]} must be the code of a language, for example 'eng', not {code!r:.80}")
    return code


def _integer(name: str, value: Any) -> int:
    """Of a table, too, whose values are strings or floats."""
    try:
        if isinstance(value, bool) or int(value) != float(value):
            raise ValueError
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{name} must be an integer, not {value!r:.80}") from None


def _seconds(name: str, value: Any) -> float | None:
    if value is None:
        return None
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < 1e9:
        raise UsageError(f"{name} must be a number of seconds, not {value!r:.80}")
    return seconds


def _params(given: Any, defaults: DecodingParams) -> DecodingParams:
    """The decoding parameters of an entry: an object, in a table as JSON."""
    if given is None:
        return defaults
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"params is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise UsageError(f'params must be an object such as {{"num_beams": 5}}, not {given!r:.80}')
    for name in given:
        if name not in _PARAMS:
            near = difflib.get_close_matches(name, _PARAMS, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_PARAMS)}"
            raise UsageError(f"params has {name!r:.80}, which is no decoding parameter: {hint}")
    return dataclasses.replace(defaults, **given)


def _params_given(params: DecodingParams, defaults: DecodingParams) -> dict[str, Any]:
    """Those that are not the defaults."""
    if params is defaults:
        return {}
    return {name: getattr(params, name) for name in _PARAMS if getattr(params, name) != getattr(defaults, name)}
