"""What the engine keeps of a request: buffers and files stay their owner's, to change or close afterwards."""

from __future__ import annotations

import copy
import io
import threading
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from seamless_engine.prepared import Features, Tokens
from seamless_engine.request import Request

# One file object may be in several requests, of several threads. Two files that share a lock only wait for each other.
_LOCKS = [threading.RLock() for _ in range(64)]


class _Content(io.BytesIO):
    """What a file object held, under its name."""

    name: object


def is_read(request: Request) -> bool:
    """Whether `handed_over` reads from a file object or a decoder, which may take long and raise anything."""
    return hasattr(request.audio, "read") or hasattr(request.audio, "get_all_samples")


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
        return Features(_own(audio.rows), audio.valid)
    if isinstance(audio, torch.Tensor):
        return audio.detach().to(device="cpu", copy=True)
    if isinstance(audio, np.ndarray):
        return audio.copy()
    if isinstance(audio, bytearray | memoryview):
        return bytes(audio)
    if hasattr(audio, "get_all_samples"):
        with _lock_of(audio):
            samples = audio.get_all_samples()
        return SimpleNamespace(get_all_samples=lambda: samples)
    return _content(audio) if hasattr(audio, "read") else audio


def _lock_of(source: object) -> threading.RLock:
    return _LOCKS[id(source) // 16 % len(_LOCKS)]


def _content(file: Any) -> Any:
    """The whole file. One that cannot be read so is left to be refused as audio."""
    with _lock_of(file):
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
