"""Containers whose header has the number of bytes of samples: wav, aiff, caf, au, NIST and others."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import BinaryIO

from seamless_engine.inputs.containers.parts import BEGINNING, Part, next_beginning, read_at

_MAX_CHUNKS = 10_000  # more would cost time; only a hostile file has more
# Sizes that programs which cannot seek back write into 4 bytes: SoX, arecord and others, FFmpeg and others.
_UNKNOWN_SIZES = (range(0x7EFFFF00, 0x7F000009), range(0x7FFF0000, 0x80000001), range(0xFFFF0000, 0x100000000))


@dataclass(frozen=True)
class Chunks:
    """Scans a container that is a list of chunks, each with a header of a name and a length.

    header: the format of a chunk's header, for `struct`.
    first: the offset of the first chunk.
    data: the name of the chunk with the samples.
    align: chunks begin at multiples of it.
    inclusive: whether the length includes the header.
    """

    header: str
    first: int
    data: bytes
    align: int = 2
    inclusive: bool = False

    def __call__(self, file: BinaryIO, start: int, size: int) -> Part:
        at, long, has_samples = start + self.first, 0, False
        width = struct.calcsize(self.header)
        for _ in range(_MAX_CHUNKS):
            head = read_at(file, at, width)
            if len(head) < width or not head[:4].isascii() or not head[:4].decode().isprintable():
                break
            if BEGINNING.match(read_at(file, at, 64)):
                break
            name, length = struct.unpack(self.header, head)
            body = at + width
            length -= width * self.inclusive
            if name == b"ds64":  # the true length, in 8 bytes
                long = int.from_bytes(read_at(file, body + 8, 8), "little")
            if name[:4] == self.data and not has_samples:
                if length == 0xFFFFFFFF and long:
                    length = long
                if self._is_unknown(file, body, length, size):
                    end = next_beginning(file, start, body, size)
                    is_short = self.header.endswith("I") and end - body >= 1 << 32
                    length = 0xFFFFFFFF if is_short else end - body + width * self.inclusive
                    patches = {at: struct.pack(self.header, name, length)}
                    if read_at(file, start, 4) == b"RF64":  # the 8 bytes for its length are 0 then
                        patches[start] = b"RIFF"
                    return Part(start, end, patches=patches)
                if body + length > size:
                    return Part(start, size, truncated=True)
                has_samples = True
            end = body + max(length, 0)
            if has_samples and end > size:
                break
            padded = end + -(end - start) % self.align
            at = end if padded != end and BEGINNING.match(read_at(file, end, 64)) else padded
        return Part(start, min(at, size) if has_samples else size)

    def _is_unknown(self, file: BinaryIO, body: int, length: int, size: int) -> bool:
        """Whether the length means that the program which wrote the file did not know it."""
        if length <= 0:  # 0 is a length if a chunk or the end of the file follows
            width = struct.calcsize(self.header)
            name, following = struct.unpack(self.header, read_at(file, body, width).ljust(width, b"\0"))
            is_chunk = re.match(rb"[ -~]{4}", name) and 0 <= body + width + following <= size
            return length < 0 or (body < size and not is_chunk)
        is_placeholder = length >= 1 << 62 or any(length in sizes for sizes in _UNKNOWN_SIZES)  # of W64; of the others
        return body + length > size and is_placeholder


def scan_au(file: BinaryIO, start: int, size: int) -> Part:
    body, length = struct.unpack(">II", read_at(file, start + 4, 8))
    body += start
    if length in _UNKNOWN_SIZES[-1] or (length == 0 and body < size and not BEGINNING.match(read_at(file, body, 64))):
        return Part(start, next_beginning(file, start, body, size), patches={start + 8: b"\xff" * 4})
    return Part(start, min(body + length, size), truncated=body + length > size)


def scan_nist(file: BinaryIO, start: int, size: int) -> Part:
    head = read_at(file, start, 4096)
    found = [re.search(rb"\n%s -i (\d{1,12})\n" % name, head) for name in _NIST_FIELDS]
    first = re.match(rb"NIST_1A\n *(\d{1,6})\n", head)
    if first is None or None in found:
        return Part(start, size)
    count, width, channels = (int(one[1]) for one in found if one)
    end = start + int(first[1]) + count * width * channels
    return Part(start, min(end, size), truncated=end > size)


_NIST_FIELDS = (b"sample_count", b"sample_n_bytes", b"channel_count")
