"""Padded batches of transformers' processor → one input of the engine for each of their items, without padding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from seamless_engine.errors import UsageError
from seamless_engine.model_inputs import Features, Tokens


def clips(features: Any, mask: Any, width: int) -> list[Features]:
    """The clips of input_features [batch, frames, width] and attention_mask [batch, frames]; without a mask, every
    frame is valid.

    A frame holds two frames of the filter bank. An odd number of them leaves a last frame whose second half is padding
    and whose mask is 0. In a larger batch the mask is the same for frames of padding, but in those both halves are
    equal.
    """
    features = _tensor("input_features", features, 3, floating=True).float()
    if features.shape[2] != width:
        raise UsageError(f"input_features has frames of {features.shape[2]} values; this checkpoint takes {width}")
    if mask is None:
        return [Features(clip, len(clip)) for clip in features]
    found = []
    for clip, kept in zip(features, _mask(mask, features), strict=True):
        valid = int(kept.sum())
        if valid == 0:
            raise UsageError("a clip of input_features has no whole frame: at least 35 ms of audio are needed")
        if not kept[:valid].all():
            raise UsageError("attention_mask must be ones, then zeros: pad input_features on the right")
        found.append(Features(clip[: valid + int(_is_half_frame(clip, valid))], valid))
    return found


def _is_half_frame(clip: torch.Tensor, index: int) -> bool:
    if index == len(clip):
        return False
    first, second = clip[index].chunk(2)
    padding = second[0]
    return bool((second == padding).all() and (first != padding).any())


def sentences(ids: Any, mask: Any, pad: int, vocab_size: int) -> list[Tokens]:
    """The sentences of input_ids [batch, length] without padding on either side; without a mask, pad ids are
    padding."""
    ids = _ids("input_ids", ids, vocab_size)
    found = []
    for sentence, kept in zip(ids, ids != pad if mask is None else _mask(mask, ids), strict=True):
        places = kept.nonzero()[:, 0]
        if len(places) == 0:
            raise UsageError("a row of input_ids is nothing but padding")
        first, last = int(places[0]), int(places[-1])
        # Hidden tokens before a sentence would shift its positions. Pads would not, because they take no position.
        if last - first + 1 != len(places) or bool((sentence[:first] != pad).any()):
            raise UsageError("attention_mask must hide padding only, on one side of each sentence")
        found.append(Tokens(sentence[first : last + 1].tolist()))
    return found


def prompt_languages(prompt: Any, batch: int, start: int, codes: Mapping[int, str]) -> list[str]:
    """The target language of each item of decoder_input_ids, which may only hold the prompt: [language] or
    [start, language]. codes: language id → code."""
    ids = _ids("decoder_input_ids", prompt, None)
    if len(ids) == batch and ids.shape[1] in (1, 2) and (ids.shape[1] == 1 or bool((ids[:, 0] == start).all())):
        found = [codes.get(token) for token in ids[:, -1].tolist()]
        if None not in found:
            return [code for code in found if code is not None]
    raise UsageError(
        f"decoder_input_ids may only be the prompt, [language id] or [{start}, language id] in each of {batch} rows: "
        "tgt_lang says the same, and a text cannot be continued"
    )


def decoder_tokens(ids: Any, batch: int, vocab_size: int) -> list[list[int]]:
    """decoder_input_ids [batch, T] of `forward`, as lists."""
    ids = _ids("decoder_input_ids", ids, vocab_size)
    if len(ids) != batch:
        raise UsageError(f"decoder_input_ids has {len(ids)} rows for a batch of {batch}")
    return ids.tolist()


def _ids(name: str, value: Any, vocab_size: int | None) -> torch.Tensor:
    ids = _tensor(name, value, 2, floating=False)
    if vocab_size is not None and not (0 <= int(ids.min()) and int(ids.max()) < vocab_size):
        raise UsageError(f"{name} holds ids outside the vocabulary, 0 to {vocab_size - 1}")
    return ids


def _mask(value: Any, batch: torch.Tensor) -> torch.Tensor:
    try:
        mask = _on_cpu(value)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"attention_mask must be a tensor, not {type(value).__name__}") from None
    if mask.shape != batch.shape[:2]:
        raise UsageError(f"attention_mask has shape {tuple(mask.shape)} for a batch of {tuple(batch.shape[:2])}")
    return mask != 0


def _tensor(name: str, value: Any, dims: int, floating: bool) -> torch.Tensor:
    if value is None:
        raise UsageError(f"{name} is missing")
    if isinstance(value, Mapping):
        raise UsageError(f"{name} is a mapping: give what the processor returns as keywords, generate(**inputs, …)")
    try:
        tensor = _on_cpu(value)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(
            f"{name} must be a tensor of the processor, not {type(value).__name__}; model.engine and "
            "seamless_engine.hf.pipeline take files and sentences as they are"
        ) from None
    if tensor.ndim != dims or tensor.numel() == 0 or tensor.is_floating_point() != floating:
        kind = "floats" if floating else "integers"
        raise UsageError(
            f"{name} must be {dims}-dimensional, of {kind}, and not empty; it is {tensor.dtype} {tuple(tensor.shape)}"
        )
    return tensor


def _on_cpu(value: Any) -> torch.Tensor:
    """A list becomes a tensor by way of NumPy, since torch would use the caller's default device and dtype."""
    return torch.as_tensor(value if isinstance(value, torch.Tensor) else np.asarray(value), device="cpu")
