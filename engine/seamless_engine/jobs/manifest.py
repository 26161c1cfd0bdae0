"""Manifests, read a line at a time: JSONL, TSV, CSV, parquet, and texts with a sentence on each line.

A line that cannot be read is an entry with a problem; the next one is read all the same. Memory is bounded by the
longest line that is allowed, whatever the file holds.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from seamless_engine.errors import UsageError

MAX_LINE = 1 << 18  # bytes
_COUNTED = 1 << 30  # bytes: lines of a larger file are not counted ahead
_DEEPEST = 50  # objects in objects
_PARQUET_BATCH = 16  # rows, which may hold the bytes of clips
AUDIO, TEXT = ("audio", "audio_filepath", "path"), ("text", "src_text")
_INPUTS = {*AUDIO, *TEXT, "source"}


@dataclass(slots=True)
class Entry:
    """A line of a manifest, or a file that was found.

    place: where it is, for messages: `list.jsonl:12`.
    fields: as they were given.
    id: derived from its place or path; an id among the fields comes first.
    problem: why it cannot be read.
    folder: that of its manifest, where relative paths start; None for a file that was found.
    """

    place: str
    fields: dict[str, Any]
    id: str | None = None
    problem: str | None = None
    folder: str | None = None


Reader = Callable[[], Iterator[Entry]]


def jsonl(path: str) -> Reader:
    """An object on each line."""
    name, folder = os.path.basename(path), os.path.dirname(path)

    def read() -> Iterator[Entry]:
        with open(path, "rb") as file:
            for number, line, problem in lines(file):
                entry = Entry(f"{name}:{number}", {}, problem=problem, folder=folder)
                if problem is None:
                    if not line.strip():
                        continue
                    entry.fields, entry.problem = _parsed(line)
                yield entry

    return read


def table(path: str, separator: str) -> Reader:
    """Values below a header, a line each. CSV knows quotes, which end on their line; TSV has none.

    Raises UsageError for a header without inputs.
    """
    name, folder = os.path.basename(path), os.path.dirname(path)

    def split(line: str) -> list[str]:
        if separator == "\t":
            return line.split("\t")
        return next(csv.reader([line], strict=True), [])

    def header(file: BinaryIO) -> tuple[Iterator[tuple[int, str, str | None]], list[str]]:
        read = lines(file)
        _, line, problem = next(read, (1, "", None))
        columns = [] if problem else [column.strip() for column in split(line)]
        if problem or not _INPUTS & set(columns) or len(set(columns)) < len(columns):
            reason = problem or f"its first line is {line[:80]!r}"
            raise UsageError(
                f"{path} needs a header that names each column once, with one of {', '.join(sorted(_INPUTS))}: {reason}"
            )
        return read, columns

    def read() -> Iterator[Entry]:
        with open(path, "rb") as file:
            rest, columns = header(file)
            for number, line, problem in rest:
                entry = Entry(f"{name}:{number}", {}, problem=problem, folder=folder)
                if problem is None:
                    if not line.strip():
                        continue
                    entry.fields, entry.problem = _row(columns, split, line)
                yield entry

    with open(path, "rb") as file:
        header(file)
    return read


def texts(path: str | None, stdin: BinaryIO | None = None) -> Reader:
    """A sentence on each line; lines without one are left out. path: None reads stdin."""
    name = "stdin" if path is None else os.path.basename(path)

    def entries(file: BinaryIO) -> Iterator[Entry]:
        for number, line, problem in lines(file):
            if problem is None and "\0" in line:
                problem = "the line has a NUL character: it is no text"
            if problem is not None or line.strip():
                fields = {} if problem else {"text": line.strip()}
                yield Entry(f"{name}:{number}", fields, problem=problem)

    def read() -> Iterator[Entry]:
        if stdin is not None:
            yield from entries(stdin)
        elif path is not None:
            with open(path, "rb") as file:
                yield from entries(file)

    return read


def parquet(path: str) -> Reader:
    """A row each. Raises UsageError for a file that is none, and without pyarrow."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError(f"{path} needs pyarrow: pip install 'seamless-engine[parquet]'") from None
    name, folder = os.path.basename(path), os.path.dirname(path)
    unreadable = (pyarrow.ArrowException, OSError, ValueError)

    def read() -> Iterator[Entry]:
        number = 0
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=_PARQUET_BATCH):
                    for row in batch.to_pylist():
                        number += 1
                        yield Entry(f"{name}:{number}", _without_nan(row), folder=folder)
        except unreadable as error:
            yield Entry(f"{name}:{number + 1}", {}, problem=f"the file cannot be read from here on: {error}")

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = set(file.schema_arrow.names)
    except unreadable as error:
        raise UsageError(f"{path} cannot be read as parquet: {error}") from None
    if not _INPUTS & columns:
        raise UsageError(f"{path} has none of the columns {', '.join(sorted(_INPUTS))}")
    return read


def lines(file: BinaryIO) -> Iterator[tuple[int, str, str | None]]:
    """(number from 1, line without its end, None), or (number, "", what is wrong with it)."""
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE)
            yield number, "", f"the line has more than {MAX_LINE} bytes"
            continue
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")  # the byte order mark of some editors
        try:
            yield number, line.decode().rstrip("\r\n"), None
        except UnicodeDecodeError as error:
            yield number, "", f"the line is not UTF-8 at its byte {error.start + 1}"


def num_lines(path: str) -> int | None:
    """Lines of a file, None if it is too large to count them."""
    if os.path.getsize(path) > _COUNTED:
        return None
    count = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            count += block.count(b"\n")
    return count


def _parsed(line: str) -> tuple[dict[str, Any], str | None]:
    try:
        fields = json.loads(line, parse_constant=_constant, parse_float=_finite)
    except RecursionError:
        return {}, "the line is nested too deeply"
    except ValueError as error:
        return {}, f"the line is no JSON: {error}"
    if _depth(fields) > _DEEPEST:
        return {}, "the line is nested too deeply"
    if not isinstance(fields, dict):
        return {}, f"the line holds no object with keys, but {type(fields).__name__}"
    return fields, None


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [one for one in level if isinstance(one, dict | list)]:
        depth += 1
        level = [one for each in level for one in (each.values() if isinstance(each, dict) else each)]
    return depth


def _row(columns: Sequence[str], split: Callable[[str], list[str]], line: str) -> tuple[dict[str, Any], str | None]:
    try:
        values = split(line)
    except csv.Error as error:
        return {}, f"the line is no CSV: {error}"
    if len(values) != len(columns):
        return {}, f"the line has {len(values)} values, the header {len(columns)}"
    return {name: value for name, value in zip(columns, values, strict=True) if value != ""}, None


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits} is too large a number")
    return value


def _without_nan(value: Any) -> Any:
    """Of a table that means by NaN that there is no value."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _without_nan(entry) for name, entry in value.items()}
    return [_without_nan(entry) for entry in value] if isinstance(value, list) else value
