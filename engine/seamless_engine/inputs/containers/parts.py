"""A part of an audio file, and how one is told from what stands between and behind them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

_BLOCK = 1 << 20
_FIRST_BLOCK = 1 << 12  # of padding, of which there is little nearly always
_MAX_TAGS = 100  # one behind the other; a hostile file has more, and would cost time
_MAX_OFFSET = 1 << 62  # what a forged length adds up to may be more than a file can seek to
_PADDING = b"\0\t\n\r "  # is found between files, and is no sound
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
    """One of the files that a file was joined of; nearly always it is the only one.

    start, end: its bytes, tags in front of it and behind it left out.
    truncated: its header announces more bytes than there are.
    frames: samples of each channel by its header, where only decoding can confirm them.
    patches: bytes that a decoder must see in place of those in the file, by position.
    prefix: bytes that it must see before them.
    warning: what is wrong and does not keep it from being read.
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
    """The first byte from `at` on that belongs to no tag and is no padding."""
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
    """The first byte from `at` on where another file like the one at `start` begins; `size` if none does.

    For containers without a length. The patterns are so long that samples do not match them by chance.
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
