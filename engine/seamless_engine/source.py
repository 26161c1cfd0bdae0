"""The inputs of encoder passes, and the clips that requests in flight share: decoded once, and encoded once."""

from __future__ import annotations

import copy
import dataclasses
import os
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from seamless_engine.request import Request

if TYPE_CHECKING:
    import torch

    from seamless_engine.segmentation.options import Segmentation
    from seamless_engine.segmentation.segments import Segment


@dataclass(eq=False)
class Source:
    """What an encoder reads for one job, or for the jobs of several requests with the same clip.

    content: waveform float32 [samples], Features, or token ids.
    encoder_states: [encoder_length, hidden], kept while another request that holds the clip may want them.
    """

    content: Any
    clip: Clip | None = None
    encoder_states: torch.Tensor | None = None

    def enter(self, states: torch.Tensor) -> None:
        """states: a part of those of a pass. Shared ones are copied, so that they do not keep the others."""
        self.encoder_states = states.clone() if self.clip is not None and self.clip.shared else states

    def states(self) -> torch.Tensor:
        """The encoder states, which were computed before."""
        assert self.encoder_states is not None
        return self.encoder_states

    def release(self) -> None:
        """A job has taken the encoder states: they and the samples are dropped unless another request may want them."""
        if self.clip is None or not self.clip.shared:
            self.encoder_states = None
            if self.clip is not None:
                self.clip.drop(self)


class Clip:
    """The audio of one request, or of several in flight that name the same file. Any thread may use it."""

    def __init__(self) -> None:
        self.holders = 1
        self._working = threading.RLock()  # while a reader's thread reads the audio, or looks for its segments
        self._lock = threading.Lock()  # for moments, as the engine's thread takes it, too
        self._read: tuple[torch.Tensor | Exception, list[str]] | None = None
        self._segments: dict[Hashable, tuple[Segmentation, list[Segment]]] = {}
        self._sources: dict[tuple[int, int], Source] = {}

    @property
    def shared(self) -> bool:
        """Whether more than one request holds the clip."""
        return self.holders > 1

    def samples(
        self, read: Callable[[Callable[[str], object]], torch.Tensor], warn: Callable[[str], object]
    ) -> torch.Tensor:
        """float32 [samples]: what `read(warn)` returns, which is called once. Raises what it raised."""
        with self._working:
            known = self._read or self._outcome(read)
            with self._lock:
                self._read = known
        found, said = known
        for sentence in said:
            warn(sentence)
        if isinstance(found, Exception):
            raise copy.copy(found)  # each result has an exception of its own
        return found

    def _outcome(
        self, read: Callable[[Callable[[str], object]], torch.Tensor]
    ) -> tuple[torch.Tensor | Exception, list[str]]:
        said: list[str] = []
        try:
            return read(said.append), said
        except Exception as error:  # the other requests fail for the same reason
            return error.with_traceback(None), said

    def segments(self, options: Segmentation, find: Callable[[], list[Segment]]) -> list[Segment]:
        """What `find` returns, which is called once for each set of options."""
        # The segmenter may have no hash. The options are kept, so that its id is not given to another one.
        key = dataclasses.replace(options, segmenter=None), id(options.segmenter)
        with self._working:
            known = self._segments.get(key) or (options, find())
            with self._lock:
                self._segments[key] = known
        return known[1]

    def source(self, samples: torch.Tensor, start: int, end: int) -> Source:
        """The source of samples[start:end], the same one for every request."""
        with self._lock:
            if (start, end) not in self._sources:
                self._sources[start, end] = Source(samples[start:end], self)
            return self._sources[start, end]

    def drop(self, source: Source) -> None:
        """Forget a source, and with the last one the samples."""
        with self._lock:
            self._sources = {span: other for span, other in self._sources.items() if other is not source}
            if not self._sources:
                self._read = None
                self._segments.clear()

    def clear(self) -> None:
        """Forget everything: clip and sources refer to one another, and would stay until they are collected."""
        with self._lock:
            for source in self._sources.values():
                source.encoder_states = None
            self._sources, self._read = {}, None
            self._segments.clear()


class Clips:
    """The clips of the requests in flight. A file that several of them name is one clip until the last is answered."""

    def __init__(self) -> None:
        self._by_key: dict[Hashable, Clip] = {}
        self._keys: dict[Clip, Hashable] = {}
        self._lock = threading.Lock()

    def take(self, key: Hashable | None) -> Clip:
        """key: of `clip_key`."""
        if key is None:
            return Clip()
        with self._lock:
            clip = self._by_key.get(key)
            if clip is None:
                clip = self._by_key[key] = Clip()
                self._keys[clip] = key
            else:
                clip.holders += 1
            return clip

    def give_back(self, clip: Clip) -> None:
        with self._lock:
            clip.holders -= 1
            if clip.holders:
                return
            if clip in self._keys:
                del self._by_key[self._keys.pop(clip)]
        clip.clear()


def clip_key(request: Request) -> Hashable | None:
    """Equal for requests that read the same audio, to the same greatest length; None if it may differ.

    A file that was replaced or written to has another key.
    """
    audio, common = request.audio, (request.sampling_rate, request.segment is not None)
    if isinstance(audio, str | PurePath):
        try:
            found = os.stat(audio)
        except (OSError, ValueError):  # the reader says what is wrong with it
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, *common
    if isinstance(audio, bytes):  # nothing can change them, and the request holds them
        return id(audio), *common
    return None
