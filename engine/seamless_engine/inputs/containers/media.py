"""Containers that only FFmpeg opens: MPEG-4, Matroska and ASF."""

from __future__ import annotations

import re
from typing import BinaryIO

from seamless_engine.inputs.containers.parts import Part, read_at

_MAX_BOXES, _MAX_ELEMENTS = 10_000, 1_000_000  # more would cost time; only a hostile file has more


def scan_mp4(file: BinaryIO, start: int, size: int) -> Part:
    """Boxes, up to the first box of the next file."""
    at = start
    for _ in range(_MAX_BOXES):
        head = read_at(file, at, 16)
        if len(head) < 8 or not re.match(rb"[ -~]{4}", head[4:]) or (at > start and head[4:8] == b"ftyp"):
            break
        length = int.from_bytes(head[:4], "big")
        if length == 1:  # the length is in the next 8 bytes
            length = int.from_bytes(head[8:], "big")
        elif length == 0:  # the box reaches to the end of the file
            length = size - at
        if at + length > size:
            return Part(start, size, truncated=True)
        at += max(length, 8)
    return Part(start, min(at, size))


def scan_matroska(file: BinaryIO, start: int, size: int) -> Part:
    """Elements, up to the first element of the next file. An element of unknown length is entered, others are
    skipped."""
    at, is_open = start, False
    for _ in range(_MAX_ELEMENTS):
        head = read_at(file, at, 12)
        is_first = head[:4] == b"\x1a\x45\xdf\xa3"
        is_expected = is_open or is_first or head[:4] == _SEGMENT or head[:1] in _FILLERS
        if not head or not head[0] or is_first != (at == start) or not is_expected:
            break
        name = 9 - head[0].bit_length()  # bytes of the name, then of the length
        width = 9 - head[name].bit_length() if len(head) > name else 9
        if width > 8 or len(head) < name + width:
            return Part(start, size, truncated=at + 12 > size)
        ones = (1 << 7 * width) - 1
        length = int.from_bytes(head[name : name + width], "big") & ones
        is_open = is_open or length == ones
        at += name + width + (0 if length == ones else length)
        if at > size:
            return Part(start, size, truncated=True)
    return Part(start, at)


_SEGMENT, _FILLERS = (
    b"\x18\x53\x80\x67",
    (b"\xec", b"\xbf"),
)  # the element that holds all others; padding and a checksum


def scan_asf(file: BinaryIO, start: int, size: int) -> Part:
    head = read_at(file, start, 1 << 16)
    at = head.find(b"\xa1\xdc\xab\x8c\x47\xa9\xcf\x11\x8e\xe4\x00\xc0\x0c\x20\x53\x65")  # file properties
    if at < 0 or len(head) < at + 92 or head[at + 88] & 1:  # a broadcast has no length
        return Part(start, size)
    end = start + int.from_bytes(head[at + 40 : at + 48], "little")
    return Part(start, min(end, size), truncated=end > size)
