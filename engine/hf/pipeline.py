"""`pipeline("automatic-speech-recognition", ...)` of transformers, over the engine."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from seamless_engine.errors import AudioError, UsageError
from seamless_engine.hf.arguments import read_options
from seamless_engine.hf.base import Pretrained, check_result
from seamless_engine.hf.loading import check_unmoved, device_of
from seamless_engine.hf.models import SeamlessM4Tv2ForSpeechToText
from seamless_engine.request import Request
from seamless_kernels.fbank import SAMPLING_RATE

_TASK = "automatic-speech-recognition"
_DEFAULTS = {"num_beams": 5}  # of transformers' pipeline, unlike those of its generate()
_TIMEOUT = 60.0  # seconds, for a host that does not answer
_MAX_BYTES = 256 << 20  # of a file behind a URL


def pipeline(
    task: str,
    model: str | os.PathLike[str] | Pretrained | None = None,
    *,
    dtype: str | torch.dtype | None = None,
    torch_dtype: str | torch.dtype | None = None,
    device: str | int | torch.device | None = None,
    device_map: Any = None,
    **arguments: Any,
) -> SpeechRecognitionPipeline:
    """A callable that turns clips into text.

    task: "automatic-speech-recognition".
    model: a folder, a hub id, or a loaded model that reads speech.
    dtype, torch_dtype, device, device_map: as in `from_pretrained`.
    arguments: as in a call, for every call.

    Raises UsageError for any other task and for arguments that have no counterpart.
    """
    if task != _TASK:
        raise UsageError(f"pipeline({task!r}) is not supported: use {_TASK!r}, or the classes of seamless_engine.hf")
    if model is None:
        raise UsageError("model is missing: a checkpoint folder or a hub id")
    where = device_of(device, device_map)
    if not isinstance(model, Pretrained):
        loaded = SeamlessM4Tv2ForSpeechToText.from_pretrained(model, dtype=dtype, torch_dtype=torch_dtype, device=where)
        return SpeechRecognitionPipeline(loaded, **arguments)
    for wanted in (dtype, torch_dtype, where):
        if wanted not in (None, "auto"):
            check_unmoved(wanted, model.device, model.dtype)
    return SpeechRecognitionPipeline(model, **arguments)


class SpeechRecognitionPipeline:
    """Counterpart of transformers' AutomaticSpeechRecognitionPipeline, which decodes with 5 beams if not told other."""

    def __init__(self, model: Pretrained, **arguments: Any) -> None:
        if "s2tt" not in model.tasks:
            raise UsageError(f"{type(model).__name__} does not turn speech into text: use SeamlessM4Tv2ForSpeechToText")
        self.model = model
        self._arguments = _generation(arguments)

    def __call__(self, inputs: Any, **arguments: Any) -> dict[str, str] | list[dict[str, str]]:
        """{"text": …} of a clip, or a list of them for a list or tuple of clips, which the engine batches by itself.

        inputs: a path, a URL, the bytes of a file, a 1-D float array or tensor at 16 kHz, or a mapping with the keys
            "raw" or "array", and "sampling_rate".
        arguments: tgt_lang, which is needed here or when the pipeline is made; those of
            `SeamlessM4Tv2ForSpeechToText.generate`, by name or in `generate_kwargs`; batch_size, which changes nothing.

        Raises UsageError for an argument without a counterpart, AudioError for a clip that cannot be read.
        """
        chosen = self._arguments | _generation(arguments)
        language = chosen.pop("tgt_lang", None)
        if language is None:
            raise UsageError(
                "tgt_lang is missing: the code of the language to write, for example "
                'generate_kwargs={"tgt_lang": "eng"}; without it the model would write in any language'
            )
        set_on_model = {name: value for name, value in vars(self.model.generation_config).items() if value is not None}
        options = read_options(chosen, SimpleNamespace(**_DEFAULTS | set_on_model), self.model.engine.config)
        if options.params.num_return_sequences > 1:
            raise UsageError("num_return_sequences is not supported by the pipeline: it returns one text of a clip")
        clips = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
        requests = [Request("s2tt", language, params=options.params, **_audio(clip)) for clip in clips]
        results = self.model.engine.generate(requests)
        for index, result in enumerate(results):
            check_result(result, f"clip {index}")
        texts = [{"text": result.text} for result in results]
        return texts if isinstance(inputs, list | tuple) else texts[0]


def _generation(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `generate` among those of a pipeline, which may hold some of them in `generate_kwargs`."""
    named = dict(arguments)
    named.pop("batch_size", None)
    for name in ("chunk_length_s", "stride_length_s", "return_timestamps", "return_language", "decoder_kwargs"):
        if named.pop(name, None):
            raise UsageError(f"{name} is not supported: a clip is read as a whole, and its text has no times")
    return (named.pop("generate_kwargs", None) or {}) | named


def _audio(clip: Any) -> dict[str, Any]:
    """`audio` and `sampling_rate` of a request."""
    if isinstance(clip, str) and clip.startswith(("http://", "https://")):
        return {"audio": _fetched(clip)}
    if isinstance(clip, np.ndarray | torch.Tensor):
        return {"audio": clip, "sampling_rate": SAMPLING_RATE}
    if not isinstance(clip, Mapping):
        return {"audio": clip}
    unknown = set(clip) - {"raw", "array", "path", "sampling_rate"}
    if unknown:
        raise UsageError(f"an audio mapping may not have {', '.join(sorted(unknown))}")
    raw = clip.get("raw")
    return {"audio": {"array": clip.get("array") if raw is None else raw, "sampling_rate": clip.get("sampling_rate")}}


def _fetched(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
            content = response.read(_MAX_BYTES + 1)
    except (urllib.error.URLError, TimeoutError) as error:
        raise AudioError(f"{url} cannot be fetched: {error}") from None
    if len(content) > _MAX_BYTES:
        raise AudioError(f"{url} has more than {_MAX_BYTES >> 20} MiB: fetch it yourself and give a path")
    return content
