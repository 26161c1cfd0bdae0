"""What the jobs of a request read: its whole audio or text, or one piece for each segment of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from seamless_engine.config import EngineConfig
from seamless_engine.inputs.tokenizer import EMPTY, Tokenizer
from seamless_engine.model_inputs import Features, Tokens
from seamless_engine.models.lengths import encoder_length, packed_frames
from seamless_engine.request import SPEECH_IN, Request, Result, Segment
from seamless_engine.segmentation.options import Segmentation
from seamless_engine.source import Clip, Source
from seamless_kernels.framing import SAMPLING_RATE

if TYPE_CHECKING:
    import torch

    from seamless_engine.inputs.decode_pool import DecodePool

_LONG = Segmentation().limit  # seconds; upstream trained on clips of at most 15 s


@dataclass(frozen=True)
class Piece:
    """num_tokens: packed, of its encoder pass. encoder_length: of the encoder states. separator: what stands between
    this piece and the next one in the text."""

    source: Source
    num_tokens: int
    encoder_length: int
    segment: Segment | None = None
    separator: str = ""


class Reader:
    """Reads the inputs of requests. Imports torch when the first audio is read."""

    def __init__(self, tokenizer: Tokenizer, options: EngineConfig, stride: int, max_sentence: int) -> None:
        """stride: of the adapter. max_sentence: tokens of a sentence of a text that is cut."""
        self._tokenizer = tokenizer
        self._options = options
        self._stride = stride
        self._max_tokens = min(max_sentence, options.max_source_tokens)
        self._pool: DecodePool | None = None
        if options.decode_processes:
            from seamless_engine.inputs.decode_pool import DecodePool

            self._pool = DecodePool(options.decode_processes, options.decode_timeout)

    def close(self) -> None:
        """End the processes that decode audio."""
        if self._pool is not None:
            self._pool.close()

    def pieces(self, request: Request, source_id: int | None, result: Result, clip: Clip) -> list[Piece]:
        """In order; none if a clip that is to be cut has no speech. Fills in `audio_seconds` and warnings.

        source_id: of the language of the text. Raises InputError.
        """
        if request.task not in SPEECH_IN:
            return self._of_text(request, source_id)
        if isinstance(request.audio, Features):
            length = encoder_length(request.audio.valid, self._stride)
            return [Piece(Source(request.audio), len(request.audio.frames), length)]
        samples = clip.samples(partial(self._load, request), result.warnings.append)
        seconds = result.audio_seconds = len(samples) / SAMPLING_RATE
        if isinstance(request.segment, Segmentation) and seconds > request.segment.above:
            return self._of_segments(request.segment, samples, clip)
        if request.segment is None and seconds > _LONG:
            result.warnings.append(
                f"the clip lasts {seconds:.0f} s, and the model was made for {_LONG:.0f} s at most: parts may be "
                'missing in the answer. segment="auto" cuts it at pauses'
            )
        return [self._of_audio(clip.source(samples, 0, len(samples)))]

    def _load(self, request: Request, warn: Callable[[str], object]) -> torch.Tensor:
        from seamless_engine.inputs.audio import load_audio
        from seamless_engine.inputs.audio_files import decode_file

        limit = self._options.max_audio_seconds if request.segment is None else self._options.max_recording_seconds
        decode = decode_file if self._pool is None else self._pool.decode
        return load_audio(request.audio, request.sampling_rate, max_seconds=limit, warn=warn, decode=decode)

    def _of_segments(self, options: Segmentation, samples: torch.Tensor, clip: Clip) -> list[Piece]:
        from seamless_engine.segmentation.clips import segments

        found = clip.segments(options, lambda: segments(samples, options))
        return [
            self._of_audio(clip.source(samples, one.first_sample, one.end_sample), Segment(one.start, one.end), " ")
            for one in found
        ]

    def _of_audio(self, source: Source, segment: Segment | None = None, separator: str = "") -> Piece:
        num_frames, num_whole = packed_frames(len(source.content))
        return Piece(source, num_frames, encoder_length(num_whole, self._stride), segment, separator)

    def _of_text(self, request: Request, source_id: int | None) -> list[Piece]:
        if isinstance(request.text, Tokens):
            return [self._of_tokens(request.text.ids)]
        assert request.text is not None and source_id is not None and request.src_lang is not None
        encode = partial(self._tokenizer.encode_from, source_id=source_id)
        if request.segment is None:
            return [self._of_tokens(encode(request.text))]
        from seamless_engine.segmentation.sentences import split_text

        parts = split_text(request.text, request.src_lang, self._tokenizer.num_tokens, self._max_tokens)
        written = [part for part in parts if self._tokenizer.num_tokens(part.text) > EMPTY]
        if not written:
            encode(request.text)  # raises: the text is empty
        return [self._of_tokens(encode(text), separator) for text, separator in written]

    def _of_tokens(self, ids: list[int], separator: str = "") -> Piece:
        return Piece(Source(ids), len(ids), len(ids), separator=separator)
