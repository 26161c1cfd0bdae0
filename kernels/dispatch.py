"""Which implementation of an operation runs: the only place that chooses."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

# In order of preference. An operation offers those of them that it has.
BACKENDS = {"cuda": ("triton", "torch"), "cpu": ("onednn", "torch")}


def backend_for(tensor: torch.Tensor, impls: Mapping[str, Any]) -> str:
    """Name of the implementation in `impls` for data on the device of `tensor`.

    The environment variable SEAMLESS_BACKEND overrides it, so that a wrong result can be traced to one implementation
    by running with SEAMLESS_BACKEND=torch. Raises ValueError if it names a backend that does not exist.
    """
    preferred = BACKENDS.get(tensor.device.type, ("torch",))
    forced = os.environ.get("SEAMLESS_BACKEND")
    if forced:
        known = sorted({name for names in BACKENDS.values() for name in names})
        if forced not in known:
            raise ValueError(f"SEAMLESS_BACKEND is {forced!r}: use one of {', '.join(known)}, or unset it")
        preferred = (forced, "torch")
    return next(name for name in preferred if name in impls)
