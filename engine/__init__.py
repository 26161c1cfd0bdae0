"""SeamlessM4T-v2 inference: every public name."""

from typing import TYPE_CHECKING, Any

from seamless_engine.config import EngineConfig
from seamless_engine.errors import (
    AudioError,
    CancelledError,
    CapacityError,
    CheckpointError,
    DeadlineError,
    EngineClosedError,
    InputError,
    NumericalError,
    SeamlessError,
    UnknownLanguageError,
    UsageError,
)
from seamless_engine.request import DecodingParams, Hypothesis, Request, Result

if TYPE_CHECKING:
    from seamless_engine.async_engine import AsyncEngine
    from seamless_engine.engine import Engine

__all__ = [
    "AsyncEngine",
    "AudioError",
    "CancelledError",
    "CapacityError",
    "CheckpointError",
    "DeadlineError",
    "DecodingParams",
    "Engine",
    "EngineClosedError",
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
    # The engines import torch, which takes seconds: only who asks for one waits.
    if name == "Engine":
        from seamless_engine.engine import Engine

        return Engine
    if name == "AsyncEngine":
        from seamless_engine.async_engine import AsyncEngine

        return AsyncEngine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
