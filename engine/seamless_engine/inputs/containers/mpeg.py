"""Frames of MPEG audio, layers 1 to 3 (mp3 is the last)."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass


@dataclass(frozen=True)
class Frame:
    """A frame of MPEG audio.

    kind: version, layer and sampling rate, which are the same in all frames of a file.
    length: in bytes.
    is_header: whether it is the first frame of an encoder, which has no sound.
    announced: the number of frames after it, by such a frame.
    """

    kind: tuple[int, int, int]
    length: int
    is_header: bool
    announced: int | None


_BIT_RATES = {  # kbit/s by (whether MPEG 1, layer)
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_BIT_RATES[False, 3] = _BIT_RATES[False, 2]
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # of MPEG 1, 2, 2.5


BEGINNING = re.compile(rb"\xff(?=[\xe2-\xe7\xf2-\xff][\x10-\xef])", re.DOTALL)  # every frame begins so, and little else


def parse_frame(head: bytes) -> Frame | None:
    """The MPEG audio frame that begins with these bytes; None if they are not the beginning of one."""
    if len(head) < 4 or head[0] != 0xFF or head[1] < 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bits, rate, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version not in _RATES or layer == 4 or rate == 3 or bits in (0, 15):
        return None
    bit_rate, hertz = 1000 * _BIT_RATES[version == 3, layer][bits - 1], _RATES[version][rate]
    if layer == 1:
        length = (12 * bit_rate // hertz + padding) * 4
    else:
        length = (72 if layer == 3 and version != 3 else 144) * bit_rate // hertz + padding
    mono, checksum = head[3] >= 0xC0, not head[1] & 1
    side = _side(version, mono) + 4 + 2 * checksum
    is_header = layer == 3 and head[side : side + 4] in (b"Xing", b"Info")
    has_count = is_header and len(head) >= side + 12 and head[side + 7] & 1
    announced = int.from_bytes(head[side + 8 : side + 12], "big") if has_count else None
    return Frame((version, layer, rate), length, is_header, announced)


def header_frame(head: bytes, count: int) -> bytes:
    """A frame of layer 3 that announces `count` frames like the one that begins with these bytes."""
    version, mono = head[1] >> 3 & 3, head[3] >= 0xC0
    header = bytes([0xFF, head[1] | 1, 0xE0 | head[2] & 0x0C, head[3]])  # no checksum, the highest bit rate
    frame = parse_frame(header)
    assert frame is not None
    content = header + bytes(_side(version, mono)) + b"Info" + struct.pack(">II", 1, count)
    return content.ljust(frame.length, b"\0")


def _side(version: int, mono: bool) -> int:
    """The size of the side information of a frame of layer 3, after its header and checksum."""
    return (17 if mono else 32) if version == 3 else (9 if mono else 17)


def is_followed(frame: Frame, head: bytes) -> bool:
    """Whether the bytes after a frame begin another one of its kind. Other data hardly looks like two such frames."""
    follower = parse_frame(head)
    return follower is not None and follower.kind == frame.kind
