"""Containers that libsndfile does not read, by FFmpeg's libraries: m4a, mp4, webm, wma and others.

Importing this module needs PyAV, which the extra `media` installs.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import BinaryIO

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError

from seamless_engine.errors import AudioError
from seamless_engine.inputs.audio_samples import Section, Warn, as_float

# Containers that hold the sound themselves. Playlists and the like would open other files or addresses.
_FORMATS = (
    "mov,matroska,avi,flv,asf,mpeg,mpegts,aac,ac3,eac3,amr,amrnb,amrwb,ape,dts,tak,tta,wv",
    "mp3,ogg,flac,wav,w64,aiff,au,caf",
)
_OPTIONS = {"format_whitelist": ",".join(_FORMATS), "protocol_whitelist": "none"}
_SELF_DELIMITING = ("aac", "mp3")  # without a length, but the last frame shows whether the file was truncated
_WITHOUT_LENGTH = ("ac3", "eac3", "amr", "amrnb", "amrwb", "dts", "flv", "mpeg", "mpegts")
_SLACK = 0.25  # seconds by which a clip may be shorter than its header says, because encoders pad
_TAGS = 1024  # bytes after the sound that may be tags


def read_media(file: BinaryIO, label: str, reason: str, is_known: bool, warn: Warn) -> Iterator[Section]:
    """The first audio stream of a file. `warn` is told if sound may be missing.

    reason: why libsndfile could not open the file. is_known: the structure of the file was checked.

    Raises AudioError if FFmpeg cannot open it either, or finds no sound.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    try:
        container = av.open(file, "r", metadata_errors="ignore", container_options=_OPTIONS)
    except FFmpegError as error:
        raise _refused(label, reason, error) from None
    with container:
        streams = container.streams.audio
        if not streams:
            raise AudioError(f"{label} has no audio stream")
        if len(streams) > 1:
            warn(f"{label} has {len(streams)} audio streams: only the first one was read")
        if container.format.name in _WITHOUT_LENGTH and not is_known:
            warn(f"{label} is in the format {container.format.name}: whether it was truncated cannot be known")
        frames = _frames(container, 0 if is_known or len(container.streams) > 1 else size, label, reason, warn)
        for (rate, channels), alike in itertools.groupby(frames, lambda one: (one.sample_rate, one.layout.nb_channels)):
            yield Section(rate, channels, map(samples_of, alike))


def _frames(container: InputContainer, end: int, label: str, reason: str, warn: Warn) -> Iterator[AudioFrame]:
    """Decoded frames. end: the byte that the last packet should reach; 0 if it is not known."""
    stream = container.streams.audio[0]
    seconds, damaged, reached = 0.0, 0, 0
    try:
        for packet in container.demux(stream):
            damaged += packet.is_corrupt
            reached = max(reached, (packet.pos or 0) + packet.size)
            try:
                frames = packet.decode()
            except InvalidDataError:
                damaged += not packet.is_corrupt
                continue
            for frame in frames:
                seconds += frame.samples / frame.sample_rate
                yield frame
    except FFmpegError as error:
        if not seconds:
            raise _refused(label, reason, error) from None
        warn(f"{label} could be read up to {seconds:.1f} s only: {error.strerror}")
    if damaged and not seconds:
        raise AudioError(f"{label} is damaged or truncated: none of its packets could be decoded")
    if damaged:
        warn(f"{label} is damaged or truncated: {damaged} of its packets could not be decoded")
    announced = _announced(container)
    if announced is not None and seconds < announced - _SLACK:
        warn(f"{label} is damaged or truncated: its header announces {announced:.1f} s and it holds {seconds:.1f} s")
    elif reached + _TAGS < end:
        warn(f"{label} has {end - reached} bytes that are not understood: sound may be missing")


def _refused(label: str, reason: str, error: FFmpegError) -> AudioError:
    return AudioError(f"{label} cannot be decoded as audio: {reason}; FFmpeg says: {error.strerror}")


def _announced(container: InputContainer) -> float | None:
    """The length in seconds by the header of the file; None if it has none. Estimates from the size do not count."""
    stream = container.streams.audio[0]
    if container.format.name in (*_SELF_DELIMITING, *_WITHOUT_LENGTH, "asf"):
        return None
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    is_alone = len(container.streams) == 1  # video may be longer than the sound
    return container.duration / av.time_base if container.duration is not None and is_alone else None


def samples_of(frame: AudioFrame) -> np.ndarray:
    """float32 [frames, channels]"""
    samples = frame.to_ndarray()  # [channels, frames], or [1, frames * channels]
    channels = frame.layout.nb_channels
    return as_float(samples.T if frame.format.is_planar else samples.reshape(-1, channels))
