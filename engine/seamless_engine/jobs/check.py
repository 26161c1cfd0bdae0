"""`--check`: everything but the model."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator

import soundfile

from seamless_engine.errors import AudioError
from seamless_engine.jobs.items import Item, Rejected, kind_of
from seamless_engine.jobs.names import hash_of


def check_items(items: Iterator[Item | Rejected], tell: Callable[[str], object]) -> tuple[int, int]:
    """Look at each item and at the header of its clip. Returns how many are right, and how many are not: `tell` is
    called with a sentence for each of these."""
    right, wrong = 0, 0
    seen: set[str] = set()
    last: object = None  # the items of an entry share their clip
    problem_of_last: str | None = None
    for item in items:
        key = hash_of(item.id, item.task, item.tgt_lang)
        problem = f"duplicate_id: an entry before has the id {item.id!r} too" if key in seen else None
        seen.add(key)
        if isinstance(item, Rejected):
            problem = f"{item.kind}: {item.message}"
        elif problem is None and item.request.audio is not None:
            clip = item.part or item.request.audio
            if clip is not last:
                last, problem_of_last = clip, _problem_of_clip(item)
            problem = problem_of_last
        if problem is None:
            right += 1
        else:
            wrong += 1
            tell(f"{item.place}: {problem}")
    return right, wrong


def _problem_of_clip(item: Item) -> str | None:
    try:
        if item.part is not None:
            item.part.read()
        else:
            _read_header(item.request.audio)
    except AudioError as error:
        return f"{kind_of(error)}: {error}"
    return None


def _read_header(audio: str | bytes) -> None:
    name = "the clip" if isinstance(audio, bytes) else audio
    try:
        if isinstance(audio, str) and not os.path.isfile(audio):
            raise AudioError(f"{name} cannot be read: no such file")
        with soundfile.SoundFile(io.BytesIO(audio) if isinstance(audio, bytes) else audio):
            return
    except soundfile.LibsndfileError as error:
        reason = error.error_string
    except (OSError, ValueError) as error:
        raise AudioError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        import av
    except ImportError:
        raise AudioError(
            f"{name} cannot be decoded as audio: {reason} More containers need pip install 'seamless-engine[media]'"
        ) from None
    try:
        with av.open(io.BytesIO(audio) if isinstance(audio, bytes) else audio) as container:
            if not container.streams.audio:
                raise AudioError(f"{name} has no sound")
    except AudioError:
        raise
    except Exception as error:  # FFmpeg's have no base class but this
        raise AudioError(f"{name} cannot be decoded as audio: {error}") from None
