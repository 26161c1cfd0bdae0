"""An audio file as samples, decoded by libsndfile, or by FFmpeg if libsndfile cannot open it.

Imports no torch: a process that only decodes starts fast and stays small.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import stat
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any, BinaryIO

import numpy as np
import soundfile

from seamless_engine.errors import AudioError, UsageError
from seamless_engine.inputs.audio_samples import Section, Warn, to_mono
from seamless_engine.inputs.containers.find import find_parts
from seamless_engine.inputs.containers.parts import Part, read_at

Decode = Callable[[Any, float, Warn], np.ndarray]  # as `decode_file`

_BLOCK = 65536  # frames decoded at a time
_NAMES = (  # formats that libsndfile cannot open: offset, the bytes there, name
    (4, b"ftyp", "MPEG-4 (m4a, mp4, 3gp, mov)"),
    (0, b"\x1a\x45\xdf\xa3", "Matroska (mka, mkv, webm)"),
    (0, b"\x30\x26\xb2\x75", "ASF (wma, wmv)"),
    (0, b"\xff\xf1", "AAC"),
    (0, b"\xff\xf9", "AAC"),
    (0, b"\x0b\x77", "AC-3"),
    (0, b"TTA1", "True Audio"),
    (0, b"wvpk", "WavPack"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"#!AMR", "AMR"),
)


class _Forward(soundfile.SoundFile):
    """Never seeks: a FLAC file of unknown length cannot."""

    def seekable(self) -> bool:
        return False


class _Window(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, file: BinaryIO, part: Part) -> None:
        self._file = file
        self._part = part
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        size = len(self._part.prefix) + self._part.end - self._part.start
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: size}[whence]
        self._at = min(max(base + offset, 0), size)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:
        view, part = memoryview(buffer).cast("B"), self._part
        if self._at < len(part.prefix):
            content = part.prefix[self._at : self._at + len(view)]
        else:
            start = part.start + self._at - len(part.prefix)
            content = bytearray(read_at(self._file, start, max(min(len(view), part.end - start), 0)))
            for position, patch in part.patches.items():
                for offset, byte in enumerate(patch, position - start):
                    if 0 <= offset < len(content):
                        content[offset] = byte
        view[: len(content)] = content
        self._at += len(content)
        return len(content)


def decode_file(audio: Any, max_seconds: float, warn: Warn) -> np.ndarray:
    """Mono float32 [samples] at 16 kHz of a path, the bytes of a file, or a binary file object.

    Raises AudioError, and UsageError if it is none of these.
    """
    with opened(audio) as (file, label):
        return decode_opened(file, label, max_seconds, warn)


def decode_opened(file: BinaryIO, label: str, max_seconds: float, warn: Warn) -> np.ndarray:
    """As `decode_file`. label: the name of the file in messages."""
    return to_mono(read_sections(file, label, warn), max_seconds, label, warn)


@contextlib.contextmanager
def opened(audio: Any, label: str | None = None) -> Iterator[tuple[BinaryIO, str]]:
    """The binary file of a path, bytes or file object, and its name in messages. label: that name, of a path."""
    if isinstance(audio, str | os.PathLike):
        label = os.fsdecode(audio) if label is None else label
        try:
            file = open(audio, "rb") if stat.S_ISREG(os.stat(audio).st_mode) else None  # opening a pipe would block
        except (OSError, ValueError) as error:
            raise AudioError(f"{label} cannot be read: {getattr(error, 'strerror', None) or error}") from None
        if file is None:
            raise AudioError(f"{label} is not a regular file")
        with file:
            yield file, label
    elif isinstance(audio, bytes | bytearray | memoryview):
        yield io.BytesIO(audio), "the audio bytes"
    elif hasattr(audio, "read"):
        label = str(getattr(audio, "name", "the audio file object"))
        if not (hasattr(audio, "seekable") and audio.seekable()):
            raise AudioError(f"{label} cannot seek: pass the bytes that it holds instead")
        if not isinstance(audio.read(0), bytes):
            raise UsageError(f"{label} must be opened in binary mode")
        yield audio, label
    else:
        raise UsageError(
            f"audio must be a path, bytes, a binary file object, an array with its sampling_rate, or a mapping with "
            f'"array" and "sampling_rate", not {type(audio).__name__}'
        )


def read_sections(file: BinaryIO, label: str, warn: Warn) -> Iterator[Section]:
    """The sound of a file, section by section; a file that was joined from several has several sections.

    The caller must read a section to its end before it takes the next one. `warn` is told if sound may be missing.

    Raises AudioError if the file is empty, truncated, damaged or no audio.
    """
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        raise AudioError(f"{label} is empty")
    parts, strange = find_parts(file, size)
    if any(part.truncated for part in parts):
        raise AudioError(f"{label} is truncated: its headers announce more than the file holds")
    for part in parts or [Part(0, size)]:
        window = io.BufferedReader(_Window(file, part))
        if part.warning is not None:
            warn(f"{label} may not be whole: {part.warning}")
        try:
            sound = _Forward(window)
        except soundfile.LibsndfileError as error:
            yield from _by_ffmpeg(window, label, _reason(error), bool(parts), warn)
            continue
        with sound:
            if not parts:
                warn(f"{label} is in the format {sound.format}: whether it was truncated cannot be known")
            yield Section(sound.samplerate, sound.channels, _blocks(sound, part, label, warn))
    if parts and strange:
        warn(f"{label} has {strange} bytes that are not understood: sound may be missing")


def _by_ffmpeg(window: BinaryIO, label: str, reason: str, is_known: bool, warn: Warn) -> Iterator[Section]:
    """The sections of a file that libsndfile could not open.

    reason: why it could not.
    is_known: the end of the file is known from its structure.
    """
    window.seek(0)
    head = window.read(64)
    if not head:
        raise AudioError(f"{label} has no samples")
    if head.isascii() and head.decode().strip("\t\r\n").isprintable():
        raise AudioError(f"{label} cannot be decoded as audio: it is text and begins with {head[:40].decode()!r}")
    name = next((name for at, magic, name in _NAMES if head.startswith(magic, at)), None)
    if name is not None:
        reason = f"libsndfile does not read {name}"
    try:
        from seamless_engine.inputs.audio_media import read_media
    except ImportError:
        raise AudioError(
            f"{label} cannot be decoded as audio: {reason}. Install the reader of more containers, "
            f"pip install 'seamless-engine[media]', or convert the file: {_conversion(label)}"
        ) from None
    yield from read_media(window, label, reason, is_known, warn)


def _conversion(label: str) -> str:
    """A command that converts the file to WAV."""
    path = PurePath(label)
    if not path.suffix:  # the audio was bytes, or a file object without a name
        return "ffmpeg -i FILE -ar 16000 -ac 1 FILE.wav"
    target = path.with_suffix(".wav")
    if target == path:
        target = path.with_name(f"{path.stem}-converted.wav")
    return shlex.join(["ffmpeg", "-i", str(path), "-ar", "16000", "-ac", "1", str(target)])


def _blocks(sound: soundfile.SoundFile, part: Part, label: str, warn: Warn) -> Iterator[np.ndarray]:
    """The blocks of a part. The number of frames in its header is compared with the actual one."""
    count, announced = 0, part.frames
    while True:
        is_over = announced is not None and count >= announced
        wanted = _BLOCK if announced is None or is_over else min(_BLOCK, announced - count)
        try:
            block = sound.read(wanted, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            if is_over:  # all announced frames were read
                warn(f"{label} has bytes behind its sound that are not understood: sound may be missing")
                return
            place = f"after {count / sound.samplerate:.1f} s"
            raise AudioError(
                f"{label} cannot be decoded as audio: it is damaged or truncated {place}, {_reason(error)}"
            ) from None
        if len(block) == 0:
            break
        count += len(block)
        yield block
    if announced is not None and count < announced:
        raise AudioError(f"{label} is truncated: its headers announce more than the file holds")


def _reason(error: soundfile.LibsndfileError) -> str:
    return error.error_string.rstrip(".").removeprefix("Error : ")
