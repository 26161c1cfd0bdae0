"""Counts what makes the host wait for a device.

On a GPU torch reports the synchronising calls it knows of, too. Without one, tensors are on a pretended GPU.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Operations whose result has a size, or is a number, that the host must know.
_READ_BACK = {
    "_local_scalar_dense",
    "_unique2",
    "equal",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
_PACKAGES = ("seamless_engine", "seamless_kernels")


class Stops(TorchDispatchMode):
    """found: operations for which the host waits until the device has nothing left to do, and where they are called."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with self:  # in inference mode, operations come here before torch has taken them to pieces
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        if _stops(func._schema.name.removeprefix("aten::"), args, kwargs):
            self.found.append(f"{func} in {_caller()}")
        return func(*args, **kwargs)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watches what this thread does meanwhile."""
        with ExitStack() as stack:
            if torch.cuda.is_available():
                reports = stack.enter_context(warnings.catch_warnings(record=True))
                warnings.simplefilter("always")
                stack.callback(torch.cuda.set_sync_debug_mode, torch.cuda.get_sync_debug_mode())
                torch.cuda.set_sync_debug_mode("warn")
                stack.callback(lambda: self.found.extend(str(r.message) for r in reports if "synchronizing" in str(r)))
            stack.enter_context(self)
            yield


def _stops(name: str, args: Any, kwargs: Any) -> bool:
    given = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
    if name in ("_to_copy", "copy_"):
        return _crosses_and_waits(name, args, kwargs)
    if all(tensor.device.type == "cpu" for tensor in given):
        return False
    if name in _INDEXING:
        index = [part for part in args[1] if part is not None]
        return any(part.dtype == torch.bool or part.device.type == "cpu" for part in index)
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    return name in _READ_BACK


def _crosses_and_waits(name: str, args: Any, kwargs: Any) -> bool:
    """Whether a copy between host and device is from or to pageable memory, or is not asked to be asynchronous."""
    if name == "copy_":
        target, source = args[:2]
        to, host = target.device, target if target.device.type == "cpu" else source
        asynchronous = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
    else:
        source = host = args[0]
        to, asynchronous = torch.device(kwargs.get("device") or source.device), kwargs.get("non_blocking", False)
    if (to.type == "cpu") == (source.device.type == "cpu"):
        return False
    pinned = host.is_pinned() if host.device.type == "cpu" else True  # torch pins what it allocates for such a copy
    return not (asynchronous and pinned)


def _caller() -> str:
    frame = sys._getframe(1)
    while frame.f_back is not None and not frame.f_globals.get("__name__", "").startswith(_PACKAGES):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


class EventWaits:
    """Waits for events since `patch` was applied. launches: the caller counts what it launches.

    found: for each wait, what was launched after the event was recorded: the device does that meanwhile.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.launches = 0
        self.found: list[int] = []
        waits = self

        class Event(torch.cuda.Event):
            launches = 0

            def record(self, *stream: Any) -> None:
                self.launches = waits.launches
                super().record(*stream)

            def synchronize(self) -> None:
                waits.found.append(waits.launches - self.launches)
                super().synchronize()

        patch.setattr(torch.cuda, "Event", Event)
