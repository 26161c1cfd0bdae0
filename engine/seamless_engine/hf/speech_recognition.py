"""transformers' AutomaticSpeechRecognitionPipeline, computed by the engine."""

from __future__ import annotations

import http.client
import os
import urllib.request
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from seamless_engine.errors import AudioError, UsageError
from seamless_engine.handed_over import handed_over
from seamless_engine.hf.arguments import Options, check_names, read_options, to_python
from seamless_engine.hf.config import GenerationConfig
from seamless_engine.hf.models import SeamlessM4Tv2ForSpeechToText
from seamless_engine.hf.pipeline_base import Item, Pipeline
from seamless_engine.inputs.audio import load_audio
from seamless_engine.request import Request, Result
from seamless_kernels.framing import SAMPLING_RATE

_DEFAULTS = {"num_beams": 5}  # of transformers' pipeline; its generate() has other defaults
_TIMEOUT = 60.0  # seconds, for a host that does not answer
_MAX_BYTES = 256 << 20  # of a file that is fetched from a URL
_OWN = ("tgt_lang", "chunk_length_s", "stride_length_s", "ignore_warning")  # arguments that generate() does not have
_AUDIO_KEYS = ("raw", "array", "bytes", "path", "sampling_rate")


class SpeechRecognitionPipeline(Pipeline):
    """Counterpart of transformers' AutomaticSpeechRecognitionPipeline. It decodes with 5 beams by default."""

    task = "automatic-speech-recognition"
    needs = "s2tt"
    model_class = SeamlessM4Tv2ForSpeechToText
    noun = "clip"

    def __init__(self, model: Any, parts: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
        super().__init__(model, parts, arguments)
        rate = getattr(self._given("feature_extractor"), "sampling_rate", SAMPLING_RATE)
        if rate != SAMPLING_RATE:
            raise UsageError(f"feature_extractor has a sampling_rate of {rate} Hz; the model hears {SAMPLING_RATE} Hz")

    def __call__(self, inputs: Any, **arguments: Any) -> Any:
        """{"text": …} for a clip; a list of them for a list or tuple of clips; an iterator over them for a generator or
        a data set, whose clips are pulled as the engine has room. The engine makes the batches.

        inputs: a path, a URL, the bytes of a file, an array or tensor at 16 kHz, [samples] or [channels, samples] with
            one or two channels, an entry of an audio column of `datasets`, or a mapping with the keys "raw" or "array",
            and "sampling_rate", or "bytes", or "path". Other keys of a mapping are returned with the text, each as a
            list with one entry for each chunk of the clip, as in transformers.
        arguments: tgt_lang, which is required here or when the pipeline is made; those of
            `SeamlessM4Tv2ForSpeechToText.generate`, by name or in `generate_kwargs`; chunk_length_s and
            stride_length_s, which cut long clips; batch_size and num_workers, which have no effect.

        Raises UsageError for an argument without a counterpart, AudioError for a clip that cannot be read.
        """
        chosen = self._arguments | self.named(arguments)
        chunking = Chunking.from_seconds(chosen.pop("chunk_length_s", None), chosen.pop("stride_length_s", None))
        if chosen.pop("ignore_warning", None) is not True and chunking and chunking.overlaps:
            warnings.warn(
                "chunk_length_s: words where pieces overlap come twice, as in transformers. stride_length_s=0 cuts "
                "without overlap; ignore_warning=True silences this",
                stacklevel=2,
            )
        language = chosen.pop("tgt_lang", None)
        if language is None:
            raise UsageError(
                "tgt_lang is missing: the code of the language to write, for example "
                'generate_kwargs={"tgt_lang": "eng"}; without it the model would write in any language'
            )
        set_on_model = {name: value for name, value in vars(self.model.generation_config).items() if value is not None}
        options = read_options(chosen, GenerationConfig(**_DEFAULTS | set_on_model), self.model.engine.config)
        if options.params.num_return_sequences > 1:
            raise UsageError("num_return_sequences is not supported by the pipeline: it returns one text of a clip")
        return self._answer(inputs, _is_clip(inputs), partial(self._item, language, options, chunking))

    def _item(self, language: str, options: Options, chunking: Chunking | None, clip: Any) -> Item:
        audio, extra = _split(clip)
        request, finish = Request("s2tt", language, params=options.params, **audio), partial(self._finish, extra)
        if chunking is None and getattr(request.audio, "ndim", 1) == 1:
            return Item([request], finish)
        kept, said = handed_over(request), []
        limit = self.model.engine.options.max_audio_seconds
        samples = load_audio(kept.audio, kept.sampling_rate, max_seconds=limit, warn=said.append, channels_first=True)
        chunks = chunking.cut(samples) if chunking else [samples]
        return Item([replace(kept, audio=chunk, sampling_rate=SAMPLING_RATE) for chunk in chunks], finish, said)

    def _finish(self, extra: dict[str, Any], results: list[Result]) -> dict[str, Any]:
        tokens = (token for result in results for token in result.tokens)
        text = results[0].text if len(results) == 1 else self.model.engine.tokenizer.decode(tokens)
        return {"text": text} | {name: [value] * len(results) for name, value in extra.items()}

    @staticmethod
    def named(arguments: Mapping[str, Any]) -> dict[str, Any]:
        named = dict(arguments)
        for name in ("batch_size", "num_workers"):
            named.pop(name, None)
        for name in ("return_timestamps", "return_language", "decoder_kwargs", "decoder"):
            if named.pop(name, None):
                raise UsageError(f"{name} is not supported: the text of this model has no times, and names no language")
        named = (named.pop("generate_kwargs", None) or {}) | named
        check_names({name: value for name, value in named.items() if name not in _OWN})
        return named


def _is_clip(inputs: Any) -> bool:
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, np.ndarray, torch.Tensor, Mapping)
    return isinstance(inputs, kinds) or hasattr(inputs, "get_all_samples") or hasattr(inputs, "read")


def _split(clip: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """`audio` and `sampling_rate` of a request, and the other keys of a mapping."""
    if isinstance(clip, str) and clip.startswith(("http://", "https://")):
        return {"audio": _fetched(clip)}, {}
    if isinstance(clip, np.ndarray | torch.Tensor):
        return {"audio": _checked(clip), "sampling_rate": SAMPLING_RATE}, {}
    if not isinstance(clip, Mapping):
        return {"audio": clip}, {}
    if clip.get("stride") is not None:
        raise UsageError("stride is not supported: it is for models that align text with audio")
    extra = {name: value for name, value in clip.items() if name not in (*_AUDIO_KEYS, "stride", "text")}
    array = clip.get("array") if clip.get("raw") is None else clip["raw"]
    if array is None:
        return {"audio": {name: clip.get(name) for name in ("bytes", "path")}}, extra
    if clip.get("sampling_rate") is None:
        raise UsageError("an audio mapping with an array needs its sampling_rate, in Hz")
    return {"audio": _checked(array), "sampling_rate": to_python(clip["sampling_rate"])}, extra


def _checked(array: Any) -> Any:
    """The array itself, if it is [samples], or [channels, samples] with one or two channels, which are averaged."""
    if getattr(array, "ndim", 1) == 2 and array.shape[0] > 2:
        raise UsageError(
            f"an audio array of shape {tuple(array.shape)} is not [channels, samples] of one or two channels: "
            "transpose what soundfile, librosa or scipy read, or average the channels"
        )
    return array


def _fetched(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
            content = response.read(_MAX_BYTES + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: not a URL
        raise AudioError(f"{url} cannot be fetched: {error}") from None
    if len(content) > _MAX_BYTES:
        raise AudioError(f"{url} has more than {_MAX_BYTES >> 20} MiB: fetch it yourself and give a path")
    return content


@dataclass(frozen=True)
class Chunking:
    """How to cut a long clip. In samples at 16 kHz: the length of a chunk, and its overlap with the chunk to its left
    and to its right."""

    length: int
    left: int
    right: int

    @classmethod
    def from_seconds(cls, length: Any, stride: Any) -> Chunking | None:
        """`chunk_length_s` and `stride_length_s` of transformers' pipeline, in seconds. Returns None for length None or
        0. Raises UsageError.

        stride: for both sides, or a pair (left, right); None is a sixth of the length, as in transformers.
        """
        length, stride = to_python(length), to_python(stride)
        if not length:
            return None
        sides = stride if isinstance(stride, list | tuple) else [stride, stride]
        if not all(_is_seconds(n) for n in (length, *sides) if n is not None) or len(sides) != 2:
            raise UsageError(f"chunk_length_s and stride_length_s are seconds, not {length!r} and {stride!r}")
        numbers = [length, *(length / 6 if n is None else n for n in sides)]
        samples, left, right = (round(seconds * SAMPLING_RATE) for seconds in numbers)
        if samples <= left + right:
            raise UsageError(f"chunk_length_s={length} must be longer than both strides together, {numbers[1:]}")
        return cls(samples, left, right)

    @property
    def overlaps(self) -> bool:
        return self.left + self.right > 0

    def cut(self, samples: torch.Tensor) -> list[torch.Tensor]:
        """The chunks of samples [n]. The last one may be shorter; a short clip is one chunk."""
        chunks = []
        for start in range(0, len(samples), self.length - self.left - self.right):
            chunk = samples[start : start + self.length]
            if start == 0 or len(chunk) > self.left:
                chunks.append(chunk)
            if start + self.length >= len(samples):
                break
        return chunks


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
