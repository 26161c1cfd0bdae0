"""Drop-in classes with transformers' names: `from seamless_engine.hf import AutoProcessor, SeamlessM4Tv2Model`.

They take the tensors of transformers' AutoProcessor and return what transformers returns; the engine that computes it
is `model.engine`. docs/transformers-arguments.md describes every argument of `generate`.

Processors, tokenizers and GenerationConfig are transformers' own. transformers is imported when one of them is used.
"""

import importlib
from typing import Any

from seamless_engine.hf.config import SeamlessM4Tv2Config
from seamless_engine.hf.models import (
    SeamlessM4Tv2ForSpeechToSpeech,
    SeamlessM4Tv2ForSpeechToText,
    SeamlessM4Tv2ForTextToSpeech,
    SeamlessM4Tv2ForTextToText,
    SeamlessM4Tv2Model,
)
from seamless_engine.hf.pipeline import pipeline

# For this model, transformers' Auto classes choose these.
AutoConfig = SeamlessM4Tv2Config
AutoModel = SeamlessM4Tv2Model
AutoModelForSeq2SeqLM = SeamlessM4Tv2ForTextToText
AutoModelForSpeechSeq2Seq = SeamlessM4Tv2ForSpeechToText
AutoModelForTextToWaveform = SeamlessM4Tv2ForTextToSpeech

__all__ = [
    "AutoConfig",
    "AutoModel",
    "AutoModelForSeq2SeqLM",
    "AutoModelForSpeechSeq2Seq",
    "AutoModelForTextToWaveform",
    "SeamlessM4Tv2Config",
    "SeamlessM4Tv2ForSpeechToSpeech",
    "SeamlessM4Tv2ForSpeechToText",
    "SeamlessM4Tv2ForTextToSpeech",
    "SeamlessM4Tv2ForTextToText",
    "SeamlessM4Tv2Model",
    "pipeline",
]

TRANSFORMERS_NAMES = frozenset(
    (
        "AutoFeatureExtractor",
        "AutoProcessor",
        "AutoTokenizer",
        "BitsAndBytesConfig",
        "GenerationConfig",
        "SeamlessM4TFeatureExtractor",
        "SeamlessM4TProcessor",
        "SeamlessM4TTokenizer",
        "SeamlessM4TTokenizerFast",
        "logging",
        "set_seed",
    )
)


def __getattr__(name: str) -> Any:
    if name not in TRANSFORMERS_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module("transformers"), name)
    except ImportError as error:
        raise ImportError(
            f"{name} is transformers' own, which cannot be imported ({error}): pip install transformers protobuf"
        ) from error
