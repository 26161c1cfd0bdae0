"""Streams of frames or pages, without a length that is reliable: flac, ogg, mp3."""

from __future__ import annotations

from itertools import islice
from typing import BinaryIO

from seamless_engine.inputs.containers.mpeg import BEGINNING, header_frame, is_followed, parse_frame
from seamless_engine.inputs.containers.parts import Part, next_beginning, read_at

_NEAR = 1 << 18  # bytes to search for the next frame of a damaged file
_MAX_CANDIDATES = 4096  # in these bytes; random bytes have a tenth of them, and only a hostile file has more


def scan_flac(file: BinaryIO, start: int, size: int) -> Part:
    """Patches the total number of samples to "unknown", so that libFLAC neither stops there nor seeks."""
    from_total = read_at(file, start + 21, 5)
    if len(from_total) < 5:
        return Part(start, size)
    total = (from_total[0] & 0x0F) << 32 | int.from_bytes(from_total[1:], "big")
    at, last = start + 4, False
    while not last and at < size:
        head = read_at(file, at, 4)
        last = len(head) < 4 or head[0] >= 0x80
        at += 4 + int.from_bytes(head[1:], "big")
    end = next_beginning(file, start, min(at, size), size)
    if read_at(file, max(end - 128, at), 3) == b"TAG":
        end -= 128
    patches = {start + 21: bytes([from_total[0] & 0xF0]) + bytes(4)}
    return Part(start, end, frames=total or None, patches=patches)


def scan_ogg(file: BinaryIO, start: int, size: int) -> Part:
    """One link of a chain. The next link begins with a page that begins a stream, after pages that do not."""
    at, running, header_over = start, set[bytes](), False
    while (head := read_at(file, at, 27))[:4] == b"OggS":
        if len(head) < 27:
            return Part(start, size, truncated=True)
        begins, ends, serial = head[5] & 2, head[5] & 4, head[14:18]
        if begins and header_over:
            break
        length = 27 + head[26] + sum(read_at(file, at + 27, head[26]))
        if at + length > size:
            return Part(start, size, truncated=True)
        header_over = header_over or not begins
        running = running - {serial} if ends else running | {serial}
        at += length
    warning = "it has no last page and may be truncated" if running else None
    return Part(start, at, warning=warning)


def scan_mpeg(file: BinaryIO, start: int, size: int) -> Part:
    """Frames of one kind, up to the frame with which an encoder begins the next file.

    An mp3 file may begin with a frame that announces how many follow. Without it, libsndfile estimates the number from
    the first frame and stops there; it also stops at a wrong number. In both cases a frame with the right number is put
    before the others.
    """
    at, sound, count = start, start, 0
    announced = kind = None
    while (frame := parse_frame(read_at(file, at, 64))) is not None:
        if kind not in (None, frame.kind) or (frame.is_header and at > start):
            break
        kind, announced = frame.kind, announced if kind else frame.announced
        at += frame.length
        if frame.is_header:
            sound = at
        else:
            count += 1
    end, warning = min(at, size), None
    if announced and announced > count + 1:
        warning = f"its header announces {announced} frames and there are {count}: it may be truncated"
    elif at > size:
        warning = "its last frame is not whole: it may be truncated"
    is_layer_3 = kind is not None and kind[1] == 3
    if not is_layer_3 or count == 0 or (announced is not None and abs(announced - count) <= 1):
        return Part(start, end, warning=warning)
    return Part(sound, end, warning=warning, prefix=header_frame(read_at(file, sound, 4), count))


def next_frame(file: BinaryIO, at: int, size: int) -> int:
    """The first byte from `at` on where two MPEG frames follow each other; `size` if there is none within _NEAR
    bytes."""
    block = read_at(file, at, _NEAR)
    for candidate in islice(BEGINNING.finditer(block), _MAX_CANDIDATES):
        found = candidate.start()
        frame = parse_frame(block[found : found + 64])
        if frame is not None and is_followed(frame, block[found + frame.length : found + frame.length + 64]):
            return at + found
    return size
