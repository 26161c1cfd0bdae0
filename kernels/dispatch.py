"""Which implementation of an operation runs: the only place that chooses."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from seamless_kernels import jit

# In order of preference. An operation offers those of them that it has.
BACKENDS = {"cuda": ("triton", "torch"), "cpu": ("native", "onednn", "torch")}


def backend_for(tensor: torch.Tensor, impls: Mapping[str, Any]) -> str:
    """Name of the implementation in `impls` for data on the device of `tensor`.

    The environment variable SEAMLESS_BACKEND overrides it, so that a wrong result can be traced to one implementation
    by running with SEAMLESS_BACKEND=torch. Raises ValueError if it names a backend that does not exist, or Triton where
    it cannot run.
    """
    device = tensor.device.type
    forced = os.environ.get("SEAMLESS_BACKEND")
    if not forced:
        preferred = BACKENDS.get(device, ("torch",))
        if not jit.available():
            preferred = tuple(name for name in preferred if name != "triton")
        return next(name for name in preferred if name in impls)
    known = sorted({name for names in BACKENDS.values() for name in names})
    if forced not in known:
        raise ValueError(f"SEAMLESS_BACKEND is {forced!r}: use one of {', '.join(known)}, or unset it")
    if forced == "triton":
        _check_triton(device)
    return forced if forced in impls else "torch"


def _check_triton(device: str) -> None:
    if not jit.available():
        raise ValueError("SEAMLESS_BACKEND is 'triton', which is not installed: pip install 'seamless-engine[cuda]'")
    if device == "cpu" and not jit.interpreted():
        raise ValueError("SEAMLESS_BACKEND is 'triton' and the data is on the CPU: set TRITON_INTERPRET=1 beforehand")
