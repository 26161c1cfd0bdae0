"""SeamlessM4T-v2 inference: every public name."""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it: nothing is imported until a name is asked for
if TYPE_CHECKING:
    from typing import Any

    from seamless_engine.async_engine import AsyncEngine
    from seamless_engine.config import EngineConfig
    from seamless_engine.engine import Engine
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
    from seamless_engine.request import DecodingParams, Hypothesis, Request, Result, Segment
    from seamless_engine.segmentation.options import Segmentation

    __version__: str

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
    "Segment",
    "Segmentation",
    "UnknownLanguageError",
    "UsageError",
]


def __getattr__(name: str) -> Any:
    # The engines import torch, which takes seconds: a program that asks for neither does not wait for it.
    from importlib import import_module

    if name == "__version__":
        from importlib.metadata import version

        return version("seamless-engine")
    for home in (
        ("errors", "request", "segmentation.options", "config", "engine", "async_engine") if name in __all__ else ()
    ):
        module = import_module(f"{__name__}.{home}")
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__, "__version__"]
