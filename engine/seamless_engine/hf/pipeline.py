"""`pipeline(...)` of transformers, computed by the engine."""

from __future__ import annotations

import os
from typing import Any

import torch

from seamless_engine.device import resolve_dtype
from seamless_engine.errors import UsageError
from seamless_engine.hf import loading
from seamless_engine.hf.base import Pretrained
from seamless_engine.hf.pipeline_base import Pipeline
from seamless_engine.hf.speech_recognition import SpeechRecognitionPipeline
from seamless_engine.hf.text_to_speech import TextToSpeechPipeline

_TASKS: dict[str, type[SpeechRecognitionPipeline | TextToSpeechPipeline]] = {
    "automatic-speech-recognition": SpeechRecognitionPipeline,
    "text-to-audio": TextToSpeechPipeline,
    "text-to-speech": TextToSpeechPipeline,
}
_NO_EFFECT = ("use_fast", "framework", "config", "image_processor")  # for the processor only
_OF_CALLS = ("generation_config",)  # an argument of generate(), which from_pretrained refuses


def pipeline(
    task: str,
    model: str | os.PathLike[str] | Pretrained | None = None,
    *,
    tokenizer: Any = None,
    feature_extractor: Any = None,
    processor: Any = None,
    dtype: str | torch.dtype | None = None,
    torch_dtype: str | torch.dtype | None = None,
    device: str | int | torch.device | None = None,
    device_map: Any = None,
    model_kwargs: dict[str, Any] | None = None,
    **arguments: Any,
) -> Pipeline:
    """A callable that turns clips into text, or sentences into speech.

    task: "automatic-speech-recognition", or "text-to-speech", which may also be called "text-to-audio".
    model: a folder, a hub id, or a loaded model, which is moved to `device` and `dtype` if they are given.
    tokenizer, feature_extractor, processor: become attributes of the pipeline; the engine uses its own. The source
        language of the tokenizer is the default for sentences.
    dtype, torch_dtype, device, device_map: as in `from_pretrained`, as are model_kwargs, revision, token and so on.
    arguments: those of a call, as defaults of every call.

    Raises UsageError for any other task, and for arguments without a counterpart.
    """
    kind = _TASKS.get(task)
    if kind is None:
        hint = ": transformers has no such task any more" if str(task).startswith("translation") else ""
        raise UsageError(
            f"pipeline({task!r}) is not supported{hint}; use one of {', '.join(_TASKS)}, or the classes of "
            "seamless_engine.hf, of which SeamlessM4Tv2ForTextToText translates text"
        )
    if model is None:
        raise UsageError("model is missing: a checkpoint folder or a hub id")
    for name in _NO_EFFECT:
        arguments.pop(name, None)
    ours = [name for name in arguments if name in loading.KNOWN and name not in _OF_CALLS]
    chosen: dict[str, Any] = {name: arguments.pop(name) for name in ours} | (model_kwargs or {})
    kind.named(arguments)  # for its checks, before weights are read
    if isinstance(model, Pretrained):
        loading.hub_arguments(chosen)  # for its checks
        _move(model, loading.device_of(device, device_map), dtype, torch_dtype)
    else:
        where = {"dtype": dtype, "torch_dtype": torch_dtype, "device": device, "device_map": device_map}
        model = kind.model_class.from_pretrained(model, **where | chosen)
    parts = {"tokenizer": tokenizer, "feature_extractor": feature_extractor, "processor": processor}
    return kind(model, parts, arguments)


def _move(model: Pretrained, device: Any, dtype: Any, torch_dtype: Any) -> None:
    """Move a model to the device and the dtype that were given; "auto" keeps them."""
    precision = loading.dtype_of(dtype, torch_dtype, {"dtype": model.dtype})
    model.to(model.device if device == "auto" else device, resolve_dtype(precision, model.device))
