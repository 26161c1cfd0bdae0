"""Drop-in classes with transformers' names: `from seamless_engine.hf import SeamlessM4Tv2Model`.

Tensors of transformers' AutoProcessor go in, and what transformers returns comes out; in between works the engine, as
`model.engine`. docs/transformers-arguments.md says which argument of `generate` does what.
"""

from seamless_engine.hf.config import SeamlessM4Tv2Config
from seamless_engine.hf.models import (
    SeamlessM4Tv2ForSpeechToSpeech,
    SeamlessM4Tv2ForSpeechToText,
    SeamlessM4Tv2ForTextToSpeech,
    SeamlessM4Tv2ForTextToText,
    SeamlessM4Tv2Model,
)
from seamless_engine.hf.pipeline import pipeline

__all__ = [
    "SeamlessM4Tv2Config",
    "SeamlessM4Tv2ForSpeechToSpeech",
    "SeamlessM4Tv2ForSpeechToText",
    "SeamlessM4Tv2ForTextToSpeech",
    "SeamlessM4Tv2ForTextToText",
    "SeamlessM4Tv2Model",
    "pipeline",
]
