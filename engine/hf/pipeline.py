"""`pipeline(...)` of transformers, over the engine."""

from __future__ import annotations

import os
from typing import Any

import torch

from seamless_engine.errors import UsageError
from seamless_engine.hf.base import Pretrained
from seamless_engine.hf.loading import device_of
from seamless_engine.hf.pipeline_base import Pipeline
from seamless_engine.hf.speech_recognition import SpeechRecognitionPipeline
from seamless_engine.hf.text_to_speech import TextToSpeechPipeline

_TASKS: dict[str, type[SpeechRecognitionPipeline | TextToSpeechPipeline]] = {
    "automatic-speech-recognition": SpeechRecognitionPipeline,
    "text-to-audio": TextToSpeechPipeline,
    "text-to-speech": TextToSpeechPipeline,
}
# Arguments of from_pretrained. Those of the processor alone have no effect here.
_LOADING = ("cache_dir", "local_files_only", "revision", "token", "trust_remote_code", "options")
_NO_EFFECT = ("use_fast", "framework", "config", "image_processor")


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

    task: "automatic-speech-recognition", "text-to-speech" or "text-to-audio", which mean the same.
    model: a folder, a hub id, or a loaded model, which is moved to `device` and `dtype` if they are given.
    tokenizer, feature_extractor, processor: what `pipeline.tokenizer` and its like give; the engine has its own. The
        source language of a tokenizer is that of sentences to be spoken.
    dtype, torch_dtype, device, device_map: as in `from_pretrained`, and so are model_kwargs, revision, token and so on.
    arguments: as in a call, for every call.

    Raises UsageError for any other task and for arguments that have no counterpart.
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
    loading = {name: arguments.pop(name) for name in _LOADING if name in arguments} | (model_kwargs or {})
    if isinstance(model, Pretrained):
        _move(model, device_of(device, device_map), dtype if torch_dtype is None else torch_dtype)
    else:
        chosen: dict[str, Any] = {
            "dtype": dtype,
            "torch_dtype": torch_dtype,
            "device": device,
            "device_map": device_map,
        }
        model = kind.model_class.from_pretrained(model, **chosen | loading)
    parts = {"tokenizer": tokenizer, "feature_extractor": feature_extractor, "processor": processor}
    return kind(model, parts, arguments)


def _move(model: Pretrained, device: Any, dtype: Any) -> None:
    if device != "auto":
        model.to(device)
    if dtype not in (None, "auto"):
        model.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
