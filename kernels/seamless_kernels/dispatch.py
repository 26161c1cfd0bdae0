"""Which implementation of an operation runs: the only place that chooses, once for each type of device.

The environment variable SEAMLESS_BACKEND overrides the choice, so that a wrong result can be traced to one
implementation by running with SEAMLESS_BACKEND=torch. It is read once in a process, when an engine is loaded or an
operation is first called; `reset` lets it be read again.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any

import torch

from seamless_kernels import jit, native

# In order of preference. An operation offers those of them that it has.
BACKENDS = {"cuda": ("triton", "torch"), "cpu": ("native", "onednn", "torch")}


def backend_for(device: torch.device, impls: Mapping[str, Any]) -> str:
    """Name of the implementation in `impls`, one of which is "torch", for data on `device`. Raises as `settle` does."""
    for name in _order(device.type):
        if name in impls:
            return name
    raise KeyError("an operation must have a torch implementation")


def settle(device: torch.device) -> None:
    """Choose the implementations for devices of this type now; later changes of SEAMLESS_BACKEND have no effect.

    An operation that does not have what SEAMLESS_BACKEND names runs torch. Raises ValueError if it names a backend that
    does not exist, or that no operation can have here.
    """
    _order(device.type)


def reset() -> None:
    """Forget what was chosen: SEAMLESS_BACKEND is read again at the next call of an operation."""
    forced.cache_clear()
    _order.cache_clear()


@functools.cache
def forced() -> str | None:
    """What SEAMLESS_BACKEND names, which may not exist; None if it is not set."""
    return os.environ.get("SEAMLESS_BACKEND") or None


@functools.cache
def _order(device: str) -> tuple[str, ...]:
    """Implementations for a type of device, best first."""
    preferred = BACKENDS.get(device, ("torch",))
    name = forced()
    if name is None:
        return tuple(name for name in preferred if name != "triton" or jit.available())
    known = sorted({name for names in BACKENDS.values() for name in names})
    if name not in known:
        raise ValueError(f"SEAMLESS_BACKEND is {name!r}: use one of {', '.join(known)}, or unset it")
    if name == "triton":
        _check_triton(device)
    elif name == "native":
        _check_native(device)
    elif name == "onednn":
        _check_onednn(device)
    # On a GPU "native" is the search of csrc/; its other kernels are the CPU's.
    return (name, "torch") if name in preferred or name == "triton" else ("torch",)


def _check_triton(device: str) -> None:
    if not jit.available():
        raise ValueError("SEAMLESS_BACKEND is 'triton', which is not installed: pip install 'seamless-engine[cuda]'")
    if device == "cpu" and not jit.interpreted():
        raise ValueError("SEAMLESS_BACKEND is 'triton' and the data is on the CPU: set TRITON_INTERPRET=1 beforehand")


def _check_native(device: str) -> None:
    compiler, extension = ("nvcc", native.csrc_cuda) if device == "cuda" else ("g++", native.csrc)
    if extension is None:
        raise ValueError(
            f"SEAMLESS_BACKEND is 'native', which was not built for {device}: install {compiler} and seamless-engine "
            "again, from its source, or unset it"
        )


def _check_onednn(device: str) -> None:
    if device != "cpu":
        raise ValueError(f"SEAMLESS_BACKEND is 'onednn', which runs on the CPU, and the data is on {device}: unset it")
    if not torch.backends.mkldnn.is_available():
        raise ValueError("SEAMLESS_BACKEND is 'onednn', which this torch was built without: unset it")
