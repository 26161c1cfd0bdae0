"""SeamlessM4T-v2 inference: every public name."""

from typing import TYPE_CHECKING, Any

from seamless_engine.config import EngineConfig
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
from seamless_engine.request import DecodingParams, Hypothesis, Request, Result

if TYPE_CHECKING:
    from seamless_engine.engine import Engine

__all__ = [
    "AudioError",
    "CapacityError",
    "CheckpointError",
    "DecodingParams",
    "Engine",
    "EngineConfig",
    "Hypothesis",
    "InputError",
    "NumericalError",
    "Request",
    "Result",
    "SeamlessError",
    "UnknownLanguageError",
    "UsageError",
]


def __getattr__(name: str) -> Any:
    # Engine imports torch, which takes seconds: only who asks for it waits.
    if name == "Engine":
        from seamless_engine.engine import Engine

        return Engine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
