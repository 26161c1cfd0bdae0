"""Audio in: whatever the caller has becomes mono float32 at 16 kHz."""

from __future__ import annotations

import contextlib
import io
import operator
import os
import stat
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr
import torch

from seamless_engine.errors import AudioError, UsageError
from seamless_kernels.fbank import MIN_SAMPLES, SAMPLING_RATE

_MIN_RATE, _MAX_RATE = 4_000, 384_000
_MAX_CHANNELS = 8
_BLOCK = 65536  # frames decoded at a time
_MAX_PEAK = 1e6  # full scale is 1, or 32768 in unscaled 16-bit samples
_STREAMED_WAV = range(0x7FFF0000, 0x80000000)  # sizes written when the end was not known; so is 0xFFFFFFFF


def load_audio(audio: Any, sampling_rate: int | None = None, *, max_seconds: float = 600.0) -> torch.Tensor:
    """Mono float32 [samples] at 16 kHz, in memory of its own.

    audio: a path, the bytes of a file or a binary file object (read from its start), in any format that libsndfile
        reads: wav, flac, ogg, mp3, …; or a 1-D NumPy array or torch tensor with `sampling_rate`; or a mapping with the
        keys "array" and "sampling_rate". Channels of a file are averaged. Integer arrays (uint8, int16, int32) are
        scaled to [-1, 1].
    max_seconds: the clip may not last longer. Decoding stops there, whatever the header of a file claims.

    Raises AudioError if the clip cannot be read, is truncated, is not finite, or lasts less than 35 ms or more than
    `max_seconds`; UsageError if the argument is none of the above.
    """
    if isinstance(audio, Mapping):
        audio, sampling_rate = _from_mapping(audio, sampling_rate)
    if isinstance(audio, np.ndarray | torch.Tensor):
        label = "the audio array"
        rate = _checked_rate(_integer_rate(sampling_rate), label)
        samples = _resample(_bounded([_as_float(audio)], rate, max_seconds, label), rate)
    else:
        if sampling_rate is not None:
            raise UsageError("sampling_rate belongs to arrays; an audio file has its own, so leave it out")
        with _opened(audio) as (file, label):
            samples = _decode(file, max_seconds, label)
    return torch.from_numpy(_checked_samples(samples, label))


def _from_mapping(audio: Mapping[str, Any], sampling_rate: int | None) -> tuple[Any, int | None]:
    array, rate = audio.get("array"), audio.get("sampling_rate")
    if not isinstance(array, np.ndarray | torch.Tensor) or rate is None:
        raise UsageError('an audio mapping needs "array", a NumPy array or torch tensor, and "sampling_rate"')
    if sampling_rate is not None and sampling_rate != rate:
        raise UsageError(f"sampling_rate is {sampling_rate} but the audio mapping says {rate}")
    return array, rate


def _integer_rate(sampling_rate: Any) -> int:
    if sampling_rate is None:
        raise UsageError("an audio array needs its sampling_rate, in Hz")
    try:
        return operator.index(sampling_rate)
    except TypeError:
        raise UsageError(f"sampling_rate must be an integer, in Hz, not {sampling_rate!r}") from None


def _as_float(audio: np.ndarray | torch.Tensor) -> np.ndarray:
    """float32 [samples] of an array; integers are scaled by their full range."""
    if isinstance(audio, torch.Tensor):
        audio = audio.detach().cpu()
        audio = (audio.float() if audio.is_floating_point() else audio).numpy()
    if audio.ndim != 1:
        raise UsageError(
            f"an audio array must have one dimension, not {audio.ndim}: pass one channel, or their average"
        )
    kind = f"{audio.dtype.kind}{audio.dtype.itemsize}"  # whatever the byte order
    if kind in ("f2", "f4", "f8"):
        with np.errstate(over="ignore"):  # infinity is reported as such
            return audio.astype(np.float32)
    if kind == "u1":
        return (audio.astype(np.float32) - 128.0) / 128.0
    if kind in ("i2", "i4"):
        return (audio / -float(np.iinfo(audio.dtype).min)).astype(np.float32)
    raise UsageError(f"an audio array must be of floats, int16, int32 or uint8, not {audio.dtype}")


@contextlib.contextmanager
def _opened(audio: Any) -> Iterator[tuple[BinaryIO, str]]:
    """Binary file of a path, bytes or file object, and its name for messages."""
    if isinstance(audio, str | os.PathLike):
        label = os.fsdecode(audio)
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


def _decode(file: BinaryIO, max_seconds: float, label: str) -> np.ndarray:
    """Mono samples at 16 kHz of an audio file."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        raise AudioError(f"{label} is empty")
    if _wav_end(file) > size:
        raise AudioError(f"{label} is truncated: its header announces more samples than the file holds")
    file.seek(0)
    try:
        with _sound(file, label) as sound:
            rate = _checked_rate(sound.samplerate, label)
            if sound.channels > _MAX_CHANNELS:
                raise AudioError(f"{label} has {sound.channels} channels; up to {_MAX_CHANNELS} can be averaged")
            return _resample(_bounded(_blocks(sound), rate, max_seconds, label), rate)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{label} cannot be decoded as audio: {error.error_string}") from None


def _sound(file: BinaryIO, label: str) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(file)
    except TypeError:  # soundfile wants to be told the format of a name that ends in .raw
        raise AudioError(f"{label} cannot be decoded as audio: pass raw samples as an array") from None


def _wav_end(file: BinaryIO) -> int:
    """Byte at which the sample data of a RIFF file must end by its own header; 0 if it is no such file or unknown.

    libsndfile reads what there is of a truncated file without a word.
    """
    file.seek(0)
    header = file.read(12)
    if header[:4] != b"RIFF" or header[8:] != b"WAVE":
        return 0
    for _ in range(256):  # a real file has a handful of chunks
        chunk = file.read(8)
        if len(chunk) < 8:
            return 0
        name, size = struct.unpack("<4sI", chunk)
        if name == b"data":
            return 0 if size in _STREAMED_WAV or size == 0xFFFFFFFF else file.tell() + size
        file.seek(size + size % 2, os.SEEK_CUR)
    return 0


def _blocks(sound: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """Mono float32 blocks; nothing is sized by the file's header."""
    while len(block := sound.read(_BLOCK, dtype="float32", always_2d=True)):
        yield block.mean(axis=1)


def _bounded(blocks: Iterable[np.ndarray], rate: int, max_seconds: float, label: str) -> Iterator[np.ndarray]:
    count = 0
    for block in blocks:
        count += len(block)
        if count > max_seconds * rate:
            raise AudioError(f"{label} lasts longer than {max_seconds:g} s: split it, or raise max_audio_seconds")
        yield block


def _resample(blocks: Iterable[np.ndarray], rate: int) -> np.ndarray:
    """Blocks at `rate` as one array at 16 kHz. How the samples are cut into blocks does not show."""
    if rate == SAMPLING_RATE:
        return np.concatenate([np.empty(0, np.float32), *blocks])
    stream = soxr.ResampleStream(rate, SAMPLING_RATE, 1, dtype="float32", quality="HQ")
    resampled = [stream.resample_chunk(block) for block in blocks]
    return np.concatenate([*resampled, stream.resample_chunk(np.empty(0, np.float32), last=True)])


def _checked_rate(rate: int, label: str) -> int:
    if not _MIN_RATE <= rate <= _MAX_RATE:
        raise AudioError(f"{label} has a sampling rate of {rate} Hz; {_MIN_RATE} to {_MAX_RATE} Hz can be resampled")
    return rate


def _checked_samples(samples: np.ndarray, label: str) -> np.ndarray:
    if len(samples) == 0:
        raise AudioError(f"{label} has no samples")
    if len(samples) < MIN_SAMPLES:
        seconds = len(samples) / SAMPLING_RATE
        raise AudioError(f"{label} lasts {seconds:.4f} s; at least {MIN_SAMPLES / SAMPLING_RATE} s are needed")
    if not np.abs(samples).max() < _MAX_PEAK:  # so that NaN fails too
        raise AudioError(f"{label} holds samples that are NaN, infinite or beyond all scale: expected [-1, 1]")
    return samples
