"""What the command line names as inputs, found and checked before the model is loaded, read when its turn comes."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, Literal

from seamless_engine.errors import UsageError
from seamless_engine.jobs import manifest
from seamless_engine.jobs.manifest import Entry, Reader

AUDIO_SUFFIXES = frozenset(
    ".3gp .aac .ac3 .aif .aiff .amr .au .avi .caf .flac .m4a .mka .mkv .mov .mp3 .mp4 .oga .ogg .opus .rf64 .w64 .wav "
    ".webm .wma .wv".split()
)
_MANIFESTS: dict[str, Callable[[str], Reader]] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), manifest.jsonl),
    ".tsv": partial(manifest.table, separator="\t"),
    ".csv": partial(manifest.table, separator=","),
    ".parquet": manifest.parquet,
}


@dataclass(frozen=True)
class Input:
    """kind: what its entries are. read: the entries. count: how many there will be, None if that is not known."""

    kind: Literal["audio", "text", "manifest"]
    read: Reader
    count: Callable[[], int | None]


def find_inputs(names: Sequence[str], stdin: BinaryIO | None = None, leave_out: str | None = None) -> list[Input]:
    """The inputs that are named: files, folders, patterns and, for `-`, stdin.

    leave_out: a folder that is not searched, that of the output. Raises UsageError for a name without an input.
    """
    return [_find(name, stdin, None if leave_out is None else os.path.realpath(leave_out)) for name in names]


def readable(text: str) -> str:
    """A file name as text: bytes that are no UTF-8 become their escapes."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _find(name: str, stdin: BinaryIO | None, leave_out: str | None) -> Input:
    if name == "-":
        if stdin is None:
            raise UsageError("stdin is closed: give the input with `< file` or `|`, or name a file instead of -")
        return Input("text", manifest.texts(None, stdin), lambda: None)
    try:
        if os.path.isdir(name):
            return _folder(name, leave_out)
        if os.path.exists(name):
            return _file(name)
        if any(character in name for character in "*?["):
            return _pattern(name)
    except (OSError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{readable(name)} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    raise UsageError(f"{readable(name)} does not exist: give files, folders, patterns such as 'clips/*.wav', or -")


def _file(path: str) -> Input:
    if not os.path.isfile(path):  # opening a pipe would block
        raise UsageError(f"{readable(path)} is not a regular file: give - and pass the texts to stdin")
    with open(path, "rb"):
        pass  # raises if it cannot be read
    suffix = os.path.splitext(path)[1].lower()
    if suffix in _MANIFESTS:
        count = partial(manifest.num_lines, path) if suffix != ".parquet" else lambda: None
        return Input("manifest", _MANIFESTS[suffix](path), count)
    if suffix == ".txt":
        return Input("text", manifest.texts(path), partial(manifest.num_lines, path))
    return Input("audio", lambda: iter([_clip(path, os.path.basename(path))]), lambda: 1)


def _folder(folder: str, leave_out: str | None) -> Input:
    def read() -> Iterator[Entry]:
        failed: list[OSError] = []
        for place, folders, names in os.walk(folder, onerror=failed.append):
            folders[:] = sorted(
                name
                for name in folders
                if not name.startswith(".") and os.path.realpath(os.path.join(place, name)) != leave_out
            )
            for name in sorted(names):
                if os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES and not name.startswith("."):
                    path = os.path.join(place, name)
                    yield _clip(path, os.path.relpath(path, folder))
            while failed:
                error = failed.pop()
                where = readable(str(error.filename))
                yield Entry(where, {}, problem=f"the folder {where} cannot be read: {error.strerror}")

    if next(read(), None) is None:
        raise UsageError(
            f"the folder {readable(folder)} has no audio, by the suffixes {' '.join(sorted(AUDIO_SUFFIXES))}"
        )
    return Input("audio", read, lambda: sum(1 for _ in read()))


def _pattern(pattern: str) -> Input:
    paths = sorted(path for path in glob.iglob(pattern, recursive=True) if os.path.isfile(path))
    if not paths:
        raise UsageError(f"no file has a name like {readable(pattern)}")
    fixed = _fixed_part(pattern)
    suffixes = {os.path.splitext(path)[1].lower() for path in paths}
    if not suffixes & {*_MANIFESTS, ".txt"}:
        return Input("audio", lambda: (_clip(path, os.path.relpath(path, fixed)) for path in paths), lambda: len(paths))
    inputs = [_file(path) for path in paths]
    if len({one.kind for one in inputs}) > 1:
        raise UsageError(f"{readable(pattern)} finds files of several kinds: {', '.join(sorted(suffixes))}")
    return Input(inputs[0].kind, lambda: (entry for one in inputs for entry in one.read()), lambda: None)


def _fixed_part(pattern: str) -> str:
    """The folder before the first wildcard."""
    parts = pattern.split(os.sep)
    fixed = next(index for index, part in enumerate(parts) if any(character in part for character in "*?["))
    return os.sep.join(parts[:fixed]) or (os.sep if pattern.startswith(os.sep) else os.curdir)


def _clip(path: str, id: str) -> Entry:
    return Entry(readable(path), {"audio": path}, readable(id))
