"""An audio file → the files that it was joined from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import BinaryIO

from seamless_engine.inputs.containers.chunks import Chunks, scan_au, scan_nist
from seamless_engine.inputs.containers.media import scan_asf, scan_matroska, scan_mp4
from seamless_engine.inputs.containers.mpeg import is_followed, parse_frame
from seamless_engine.inputs.containers.parts import BEGINNING, Part, read_at, skip_tags
from seamless_engine.inputs.containers.streams import next_frame, scan_flac, scan_mpeg, scan_ogg

_MAX_PARTS = 1000  # more would cost time; only a hostile file has more
_Scan = Callable[[BinaryIO, int, int], Part]
_SCANS: dict[str, _Scan] = {
    "riff": Chunks("<4sI", 12, b"data"),
    "rifx": Chunks(">4sI", 12, b"data"),
    "aiff": Chunks(">4sI", 12, b"SSND"),
    "svx": Chunks(">4sI", 12, b"BODY"),
    "caf": Chunks(">4sq", 8, b"data", align=1),
    "w64": Chunks("<16sQ", 40, b"data", align=8, inclusive=True),
    "au": scan_au,
    "nist": scan_nist,
    "flac": scan_flac,
    "ogg": scan_ogg,
    "mp4": scan_mp4,
    "asf": scan_asf,
    "matroska": scan_matroska,
}


def find_parts(file: BinaryIO, size: int) -> tuple[list[Part], int]:
    """The parts of a file of `size` bytes, in order, and the number of bytes that are neither in a part nor in a tag.

    There are no parts if the container is not one of _SCANS, or MPEG audio.
    """
    parts: list[Part] = []
    strange, scan = 0, None
    at = skip_tags(file, 0, size)
    while at < size and len(parts) < _MAX_PARTS:
        before, scan = scan, _scan_for(file, at, size)
        if scan is None and before is scan_mpeg:  # the file is damaged here: look for further frames
            resumed = next_frame(file, at, size)
            strange, at = strange + resumed - at, resumed
            continue
        if scan is None:
            break
        part = scan(file, at, size)
        if part.end <= at:  # a forged length
            part = replace(part, end=size)
        parts.append(part)
        at = skip_tags(file, part.end, size)
    return parts, strange + max(size - at, 0)


def _scan_for(file: BinaryIO, at: int, size: int) -> _Scan | None:
    """The function that finds the end of the part at a byte; None if no known container begins there."""
    head = read_at(file, at, 64)
    if found := BEGINNING.match(head):
        return _SCANS[found.lastgroup or ""]
    frame = parse_frame(head)
    if frame is None:
        return None
    is_last = at + frame.length >= size
    return scan_mpeg if is_last or is_followed(frame, read_at(file, at + frame.length, 64)) else None
