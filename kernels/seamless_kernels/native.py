"""The extensions compiled from csrc/, or None where they were not built: torch then runs in their place.

`csrc`: CPU kernels. `csrc_cuda`: CUDA kernels, which can be imported, but not run, on a machine without a GPU.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import torch  # noqa: F401  its OpenMP must be loaded first, so that there is one pool of threads


def _load(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(f"seamless_kernels.{name}")
    except ModuleNotFoundError:
        return None


csrc = _load("_csrc")
csrc_cuda = _load("_csrc_cuda")
