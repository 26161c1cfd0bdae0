"""Drop-in classes with transformers' names: `from seamless_engine.hf import AutoProcessor, SeamlessM4Tv2Model`.

Tensors of transformers' AutoProcessor go in, and what transformers returns comes out; in between works the engine, as
`model.engine`. docs/transformers-arguments.md says which argument of `generate` does what.

Processors, tokenizers and GenerationConfig are transformers' own, which is imported when one of them is asked for.
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

# The classes that transformers' own of these names choose for this model.
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

_OF_TRANSFORMERS = frozenset(
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
    if name not in _OF_TRANSFORMERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module("transformers"), name)
    except ImportError as error:
        raise ImportError(
            f"{name} is transformers' own, which cannot be imported ({error}): pip install transformers protobuf"
        ) from error
