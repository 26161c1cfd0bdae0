"""Files of JSON lines that survive a crash at any moment: each line ends with hashes and its checksum."""

from __future__ import annotations

import contextlib
import json
import os
import re
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from seamless_engine.errors import SeamlessError, UsageError
from seamless_engine.jobs.names import plain

_TAIL = re.compile(
    rb',"key":"([0-9a-f]{16})","item":"([0-9a-f]{16})","options":"([0-9a-f]{16})","crc32":"([0-9a-f]{8})"\}\n$'
)
_LENGTH = len(',"key":"","item":"","options":"","crc32":""}\n') + 3 * 16 + 8
_CHECKSUM = len(b',"crc32":"00000000"}\n')


class OutputError(SeamlessError):
    """The results cannot be written. What was written before stays valid, and the same command goes on from there."""


class Stamp(NamedTuple):
    """What a line is about, as 16 hexadecimal digits each. key: id, task and target language."""

    key: str
    item: str
    options: str


def seal(fields: dict[str, Any], stamp: Stamp) -> bytes:
    """A line: the fields, the stamp, and the CRC-32 of all that, which is JSON itself."""
    sealed = {**fields, **stamp._asdict()}
    try:
        body = json.dumps(sealed, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=plain).encode()
    except UnicodeEncodeError:  # half a surrogate pair, in a field of the input
        body = json.dumps(sealed, allow_nan=False, separators=(",", ":"), default=plain).encode()
    return body[:-1] + b',"crc32":"%08x"}\n' % zlib.crc32(body)


def stamp_of(line: bytes) -> Stamp | None:
    """None if the line is torn or was changed."""
    found = _TAIL.match(line[-_LENGTH:])
    if found is None or int(found[4], 16) != zlib.crc32(b"}", zlib.crc32(memoryview(line)[:-_CHECKSUM])):
        return None
    return Stamp(*(found[part].decode() for part in (1, 2, 3)))


def recover(path: str) -> Iterator[tuple[Stamp, bytes]]:
    """The lines of a file, of which those that are not valid are removed in the end: a last line without its end is
    cut off, and lines that were changed are moved to `<path>.damaged`. A file that is missing has no lines."""
    if not os.path.exists(path):
        return
    size, damaged = 0, 0
    with open(path, "rb") as file:
        for line in file:
            stamp = stamp_of(line)
            if stamp is not None:
                yield stamp, line
            elif line.endswith(b"\n"):
                damaged += 1
            if line.endswith(b"\n"):
                size += len(line)
    if damaged:
        _move_damaged(path)
    elif size < os.path.getsize(path):
        os.truncate(path, size)


def _move_damaged(path: str) -> None:
    kept = f"{path}.tmp"
    with open(path, "rb") as file, open(kept, "wb") as good, open(f"{path}.damaged", "ab") as bad:
        for line in file:
            if line.endswith(b"\n"):  # else it is torn
                (bad if stamp_of(line) is None else good).write(line)
        for written in (good, bad):
            written.flush()
            os.fsync(written.fileno())
    os.replace(kept, path)


class LineFile:
    """Lines that are appended. A line is in the file as a whole or not at all, unless the process ends meanwhile."""

    def __init__(self, path: str, *, empty: bool = False) -> None:
        """empty: drop what is in the file. Raises UsageError."""
        self.path = path
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if empty else 0), 0o666)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from None
        self._size = os.fstat(self._file).st_size

    def append(self, line: bytes) -> None:
        """Raises OutputError."""
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except BaseException as error:  # also what a signal handler raises
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            if isinstance(error, OSError):
                raise cannot_write(self.path, error) from None
            raise
        self._size += len(line)

    def sync(self) -> None:
        """Have the lines on the disk. Raises OutputError."""
        try:
            os.fsync(self._file)
        except OSError as error:
            raise cannot_write(self.path, error) from None

    def close(self) -> None:
        os.close(self._file)


def cannot_write(path: str, error: OSError) -> OutputError:
    return OutputError(
        f"{path} cannot be written: {error.strerror}. All results up to here are kept; the same command goes on from "
        "there"
    )


def write_whole(path: str, content: bytes, unfinished: str) -> None:
    """Write a file that is there complete or not at all, and is on the disk. unfinished: its name until then.

    Raises OutputError.
    """
    try:
        with open(unfinished, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        raise cannot_write(path, error) from None
