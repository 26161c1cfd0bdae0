"""The device and the dtype of an engine: from the names that users give to what torch takes."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch

from seamless_engine.errors import UsageError
from seamless_kernels import dispatch

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def on(device: torch.device) -> AbstractContextManager[object]:
    """Makes it the current device of the thread: Triton and the capture of graphs use that one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def resolve_device(device: str | torch.device) -> torch.device:
    """The device of "auto", or the named one. Raises UsageError if the engine does not run there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device {device!r}: {error}") from None
    if where.type not in ("cpu", "cuda") or (where.type == "cuda" and not torch.cuda.is_available()):
        raise UsageError(f"device {str(where)!r} is not available here: use 'cpu' or, with an NVIDIA card, 'cuda'")
    if where.type == "cuda" and where.index is None:
        where = torch.device("cuda", torch.cuda.current_device())  # later calls may have another current device
    if where.type == "cuda" and os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        raise UsageError("TRITON_INTERPRET=1 runs kernels in an interpreter on the CPU: unset it to use the GPU")
    try:
        dispatch.settle(where)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return where


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of "auto" on a device, or the named one. Raises UsageError for any other."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    precision = _DTYPES.get(str(dtype).removeprefix("torch."))
    if precision is None:
        raise UsageError(f"dtype {dtype!r}: use one of {', '.join(_DTYPES)}, or 'auto'")
    return precision
