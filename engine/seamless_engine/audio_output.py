"""Audio output: samples → an audio file. An existing file is replaced as a whole or stays as it was."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import uuid
from dataclasses import dataclass

import numpy as np
import soundfile

from seamless_engine.errors import UsageError

_FORMATS = {  # container and codec, by libsndfile's names
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
_BLOCK = 4096  # samples per write: libvorbis copies them to the stack, which a long clip would overflow
_MAX_LINKS = 40  # as Linux
_NOT_REPLACEABLE = (errno.EACCES, errno.EPERM, errno.EBUSY)  # for example a file that is a mount point


def write_audio(path: str | os.PathLike[str], audio: np.ndarray, sampling_rate: int) -> None:
    """Write mono samples [n] in [-1, 1] in the format of the path's suffix, or as WAV without a suffix.

    A new or regular file appears complete or not at all. Symbolic links to it, its mode and, if permitted, its owner
    are kept. A pipe, a device or a file with several hard links is opened and written to.

    Raises UsageError for a path that cannot be written and for an unknown suffix, OSError if writing fails.
    """
    content = encode_audio(path, audio, sampling_rate)
    place = _place(path)
    if place.replaceable:
        try:
            return _replace(place, content)
        except OSError as error:
            if place.status is None or error.errno not in _NOT_REPLACEABLE:
                raise
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)  # without O_CREAT, if it was deleted meanwhile
    with open(descriptor, "wb") as file:
        file.write(content)


def encode_audio(path: str | os.PathLike[str], audio: np.ndarray, sampling_rate: int) -> bytes:
    """The content of the file that `write_audio` would write. Raises UsageError for an unknown suffix."""
    container, codec = _format(os.fspath(path))
    encoded = io.BytesIO()  # it can seek, so that the header gets the right sizes
    samples = np.asarray(audio, dtype=np.float32)
    if len(samples) == 0 and container != "WAV":
        samples = np.zeros(1, np.float32)  # libsndfile writes an invalid file if there are none
    with soundfile.SoundFile(encoded, "w", sampling_rate, 1, codec, format=container) as file:
        for start in range(0, len(samples), _BLOCK):
            file.write(samples[start : start + _BLOCK])
    return encoded.getvalue()


def check_output(path: str | os.PathLike[str]) -> None:
    """Raises UsageError if `write_audio` would. For a check before there is audio to write."""
    _format(os.fspath(path))
    _place(path)


def _format(path: str) -> tuple[str, str]:
    suffix = os.path.splitext(path)[1].lower()
    known = {name: format for name, format in _FORMATS.items() if soundfile.check_format(*format)}
    if suffix and suffix not in known:
        raise UsageError(
            f"{path}: audio cannot be written as {suffix}. Use one of {', '.join(known)}; without a suffix it is WAV"
        )
    return known[suffix or ".wav"]


@dataclass(frozen=True)
class _Place:
    """path: with all links followed.
    status: None if the path does not exist.
    replaceable: a new file may take its name.
    """

    path: str
    status: os.stat_result | None
    replaceable: bool


def _place(path: str | os.PathLike[str]) -> _Place:
    name = os.fspath(path)
    if not name:
        raise _unwritable("an empty path", "name a file, such as out.wav")
    try:
        target = _followed(name)
        try:
            status = os.stat(name)
        except FileNotFoundError:
            status = None
    except (OSError, ValueError) as error:
        raise _unwritable(name, getattr(error, "strerror", None) or str(error)) from None
    folder = os.path.dirname(target)
    if status is None:
        if not os.path.isdir(folder):
            raise _unwritable(name, f"the folder {folder} does not exist")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise _unwritable(name, f"no permission to make a file in {folder}")
        return _Place(target, None, replaceable=True)
    if stat.S_ISDIR(status.st_mode):
        raise UsageError(f"{name} is a folder: name a file in it, such as {os.path.join(name, 'out.wav')}")
    if stat.S_ISBLK(status.st_mode):
        raise _unwritable(name, "it is a disk, and audio would destroy what it holds")
    if not os.access(name, os.W_OK):
        raise _unwritable(name, "no permission to change it")
    has_one_name = stat.S_ISREG(status.st_mode) and status.st_nlink <= 1
    return _Place(target, status, has_one_name and not _holds_open_files(folder))


def _unwritable(name: str, reason: str) -> UsageError:
    return UsageError(f"{name} cannot be written: {reason}")


def _followed(path: str) -> str:
    """The path with its links followed, except /proc/self/fd/1 and the like: an open file may have no name any more."""
    for _ in range(_MAX_LINKS):
        folder, name = os.path.split(path)
        folder = os.path.realpath(folder)
        path = os.path.join(folder, name)
        if _holds_open_files(folder) or not os.path.islink(path):
            return path
        path = os.path.join(folder, os.readlink(path))
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _holds_open_files(folder: str) -> bool:
    return folder == "/dev/fd" or folder.startswith("/proc/")


def _replace(place: _Place, content: bytes) -> None:
    old = place.status
    unfinished = os.path.join(os.path.dirname(place.path), f".{uuid.uuid4().hex}.tmp")
    try:
        # Other users may not read it until it has the mode of the old file.
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if old is None else 0o600)
        with open(descriptor, "wb") as file:
            file.write(content)
            if old is not None:
                with contextlib.suppress(PermissionError):
                    os.fchown(descriptor, old.st_uid, old.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
        os.replace(unfinished, place.path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(unfinished)
