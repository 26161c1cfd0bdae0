"""SeamlessM4T-v2 inference: every public name."""

from seamless_engine.config import EngineConfig
from seamless_engine.engine import Engine
from seamless_engine.errors import (
    AudioError,
    CapacityError,
    CheckpointError,
    InputError,
    NumericalError,
    SeamlessError,
    UnknownLanguageError,
    UsageError,
)
from seamless_engine.request import DecodingParams, Request, Result

__all__ = [
    "AudioError",
    "CapacityError",
    "CheckpointError",
    "DecodingParams",
    "Engine",
    "EngineConfig",
    "InputError",
    "NumericalError",
    "Request",
    "Result",
    "SeamlessError",
    "UnknownLanguageError",
    "UsageError",
]
