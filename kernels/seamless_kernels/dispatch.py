"""Which implementation of an operation runs: the only place that chooses."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from seamless_kernels import jit, native

# In order of preference. An operation offers those of them that it has.
BACKENDS = {"cuda": ("triton", "torch"), "cpu": ("native", "onednn", "torch")}


def backend_for(tensor: torch.Tensor, impls: Mapping[str, Any]) -> str:
    """Name of the implementation in `impls` for data on the device of `tensor`.

    The environment variable SEAMLESS_BACKEND overrides it, so that a wrong result can be traced to one implementation
    by running with SEAMLESS_BACKEND=torch. An operation that does not have what it names runs torch. Raises ValueError
    if it names a backend that does not exist, or that no operation can have here.
    """
    device = tensor.device.type
    preferred = BACKENDS.get(device, ("torch",))
    forced = os.environ.get("SEAMLESS_BACKEND")
    if not forced:
        if not jit.available():
            preferred = tuple(name for name in preferred if name != "triton")
        return next(name for name in preferred if name in impls)
    known = sorted({name for names in BACKENDS.values() for name in names})
    if forced not in known:
        raise ValueError(f"SEAMLESS_BACKEND is {forced!r}: use one of {', '.join(known)}, or unset it")
    if forced == "triton":
        _check_triton(device)
    elif forced == "native":
        _check_native(device)
    elif forced == "onednn":
        _check_onednn(device)
    # On a GPU "native" is the search of csrc/; its other kernels are the CPU's.
    return forced if forced in impls and (forced in preferred or forced == "triton") else "torch"


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
