"""A part of an audio file, and the tags and padding between parts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

_BLOCK = 1 << 20
_FIRST_BLOCK = 1 << 12  # of padding, which is nearly always short
_MAX_TAGS = 100  # in sequence; more would cost time, and only a hostile file has more
_MAX_OFFSET = 1 << 62  # forged lengths may add up to an offset that seek() does not accept
_PADDING = b"\0\t\n\r "  # occurs between files
BEGINNING = re.compile(
    rb"(?P<riff>(?:RIFF|RF64|BW64)....WAVE)"
    rb"|(?P<rifx>RIFX....WAVE)"
    rb"|(?P<aiff>FORM....AIF[FC])"
    rb"|(?P<svx>FORM....(?:8SVX|16SV))"
    rb"|(?P<caf>caff\0\x01..)"
    rb"|(?P<w64>riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0)"
    rb"|(?P<au>\.snd\0\0......\0\0\0[\x01-\x1b])"
    rb"|(?P<nist>NIST_1A\n)"
    rb"|(?P<flac>fLaC[\0\x80]\0\0\x22)"
    rb"|(?P<ogg>OggS\0\x02\0{8})"
    rb"|(?P<mp4>\0\0..ftyp)"
    rb"|(?P<asf>\x30\x26\xb2\x75\x8e\x66\xcf\x11)"
    rb"|(?P<matroska>\x1a\x45\xdf\xa3(?:[\x80-\xff]|\x01\0{6}.)\x42\x86\x81)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Part:
    """One of the files that a file was joined from. Nearly always there is only one.

    start, end: its bytes, without tags before and after it.
    truncated: its header announces more bytes than the file has.
    frames: samples of each channel by its header, if only decoding can confirm the number.
    patches: bytes that the decoder must read in place of those in the file, by position.
    prefix: bytes that the decoder must read before those of the file.
    warning: a fault that does not prevent decoding.
    """

    start: int
    end: int
    truncated: bool = False
    frames: int | None = None
    patches: Mapping[int, bytes] = field(default_factory=dict)
    prefix: bytes = b""
    warning: str | None = None


def read_at(file: BinaryIO, at: int, count: int) -> bytes:
    if at > _MAX_OFFSET:
        return b""
    file.seek(at)
    return file.read(count)


def skip_tags(file: BinaryIO, at: int, size: int) -> int:
    """The first byte from `at` on that is neither part of a tag nor padding."""
    for _ in range(_MAX_TAGS):
        if at >= size:
            break
        head = read_at(file, at, 32)
        if head[:3] == b"ID3" and len(head) >= 10:
            footer = 10 if head[5] & 0x10 else 0
            at += 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]) + footer
        elif head[:3] == b"TAG":
            at += 128
        elif head[:8] == b"APETAGEX" and len(head) >= 16:
            at += 32 + int.from_bytes(head[12:16], "little")
        elif head[0] in _PADDING and not BEGINNING.match(head):
            at = _skip_padding(file, at)
        else:
            break
    return at


def _skip_padding(file: BinaryIO, at: int) -> int:
    count = _FIRST_BLOCK
    while block := read_at(file, at, count):
        rest = block.lstrip(_PADDING)
        at += len(block) - len(rest)
        if rest:
            break
        count = min(2 * count, _BLOCK)
    return at


def next_beginning(file: BinaryIO, start: int, at: int, size: int) -> int:
    """The first byte from `at` on where another file like the one at `start` begins; `size` if there is none.

    For containers without a length. The patterns are so long that samples hardly ever match them.
    """
    magic = read_at(file, start, 4)
    while at < size:
        block = read_at(file, at, _BLOCK + 32)
        found = block.find(magic)
        while 0 <= found < _BLOCK:
            if BEGINNING.match(block, found):
                return at + found
            found = block.find(magic, found + 1)
        at += _BLOCK
    return size
