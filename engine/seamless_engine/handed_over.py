"""What the engine keeps of a request: buffers and files stay their owner's, to change or close afterwards."""

from __future__ import annotations

import copy
import io
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from seamless_engine.model_inputs import Features, Tokens
from seamless_engine.request import Request


class _Use:
    """Threads that read one object, in turn."""

    def __init__(self) -> None:
        self.count = 0
        self.lock = threading.RLock()


_USES: dict[int, _Use] = {}  # by the id of what is read at the moment
_USES_LOCK = threading.RLock()


class _Content(io.BytesIO):
    """What a file object held, under its name."""

    name: object


def runs_foreign_code(request: Request) -> bool:
    """Whether `handed_over` calls a file object, a decoder, a mapping or a buffer: it may take long and raise anything.

    Then a thread belongs to it where no signal handler can raise, so that its exceptions are the request's.
    """
    return not (request.audio is None or isinstance(request.audio, str | bytes | PurePath))


def handed_over(request: Request) -> Request:
    """The request, with a copy of every buffer and of what a file object holds, which is left where it stood."""
    kept = copy.copy(request)
    kept.audio = _own(request.audio)
    if isinstance(kept.text, Tokens):
        kept.text = Tokens(list(kept.text.ids))
    return kept


def _own(audio: Any) -> Any:
    if isinstance(audio, Mapping):
        return {key: _own(value) for key, value in audio.items()}
    if isinstance(audio, Features):
        return Features(_own(audio.frames), audio.valid)
    if isinstance(audio, torch.Tensor):
        return audio.detach().to(device="cpu", copy=True)
    if isinstance(audio, np.ndarray):
        return audio.copy()
    if isinstance(audio, bytearray | memoryview):
        return bytes(audio)
    if hasattr(audio, "get_all_samples"):
        with _alone_with(audio):
            samples = audio.get_all_samples()
        return SimpleNamespace(get_all_samples=lambda: samples)
    return _content(audio) if hasattr(audio, "read") else audio


@contextmanager
def _alone_with(source: object) -> Iterator[None]:
    """No other thread reads this object inside: it may be in several requests, of several threads."""
    use = _Use()
    with _USES_LOCK:
        use = _USES.setdefault(id(source), use)
        use.count += 1
    try:
        with use.lock:
            yield
    finally:
        with _USES_LOCK:
            use.count -= 1
            if not use.count:
                del _USES[id(source)]


def _content(file: Any) -> Any:
    """The whole file. One that cannot be read so is left to be refused as audio."""
    with _alone_with(file):
        if not (hasattr(file, "seekable") and file.seekable()) or not isinstance(file.read(0), bytes):
            return file
        position = file.tell()
        file.seek(0)
        try:
            content = _Content(file.read())
        finally:
            file.seek(position)
    if hasattr(file, "name"):
        content.name = file.name
    return content
