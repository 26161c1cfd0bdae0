"""transformers' classes and those of `seamless_engine.hf`, for the same checkpoint folder."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoProcessor

import support.oracle  # noqa: F401 (keeps transformers quiet)
from seamless_engine import hf

ASR = "automatic-speech-recognition"
SPOKEN = "fra"  # a language that every tiny checkpoint writes and speaks


@functools.cache
def theirs(name: str, folder: Path) -> Any:
    return getattr(transformers, name).from_pretrained(folder, attn_implementation="sdpa").eval()


@functools.cache
def ours(name: str, folder: Path) -> Any:
    return getattr(hf, name).from_pretrained(folder, device="cpu")


def recognizer(folder: Path) -> Any:
    """The speech recognition pipeline of `seamless_engine.hf`."""
    return hf.pipeline(ASR, model=ours("SeamlessM4Tv2ForSpeechToText", folder), tgt_lang=SPOKEN)


@functools.cache
def processor(folder: Path) -> Any:
    return AutoProcessor.from_pretrained(folder)


def speech(folder: Path, *clips: np.ndarray) -> dict[str, torch.Tensor]:
    """input_features and attention_mask of clips at 16 kHz."""
    return dict(processor(folder)(audio=list(clips), sampling_rate=16_000, return_tensors="pt"))


def text(folder: Path, *sentences: str) -> dict[str, torch.Tensor]:
    """input_ids and attention_mask."""
    return dict(processor(folder)(text=list(sentences), src_lang="eng", padding=True, return_tensors="pt"))


def item(batch: Mapping[str, torch.Tensor], index: int) -> dict[str, torch.Tensor]:
    return {name: tensor[index : index + 1] for name, tensor in batch.items()}


def tokens(sequences: torch.Tensor) -> list[list[int]]:
    """Sequences up to their eos: after a beam search, transformers pads with eos."""
    return [ids[: ids.index(3, 2) + 1] if 3 in ids[2:] else ids for ids in sequences.tolist()]


def vocoder_units(sequences: torch.Tensor) -> torch.Tensor:
    """Unit sequences as the vocoder reads them: pad, eos and id 5 are the same unit."""
    return torch.where((sequences == 1) | (sequences == 2), 5, sequences)
