"""The launches of every entry of kernels/seamless_kernels/configs.json, on tensors that have a shape and no memory.

An operation takes part with a module of its name in this folder and a function

    launch(dims: tuple[int, ...], dtype: torch.dtype, rows: int) -> None

that calls the operation's Triton launcher, for dims as in the table and any number of tokens, on tensors of device
"meta". Such tensors cannot be read, so this also proves that the launcher reads nothing back from the device. A module
may have

    DTYPES      of the operation, if not all three
    MATRIX      names of kernels that must use matrix instructions in 16 bit
    COUNTS      names of arguments that depend on the batch, on which Triton must not specialize
    SCHEDULING  names of constants, options and kernels that may depend on the batch, because no bit of a result
                depends on them
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

import torch

from seamless_kernels import config

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Case(NamedTuple):
    """An entry of the table, for one dtype."""

    op: str
    arch: str
    dims: tuple[int, ...]
    dtype: torch.dtype

    def __str__(self) -> str:
        return "/".join((self.op, self.arch, "x".join(map(str, self.dims)), str(self.dtype).removeprefix("torch.")))

    def launch(self, rows: int) -> None:
        """Call the operation as on a GPU of `arch`. The caller has patched Triton, so that nothing is launched."""
        with mock.patch.object(config, "architecture", lambda _: self.arch):
            _module(self.op).launch(self.dims, self.dtype, rows)

    def declared(self, name: str) -> frozenset[str]:
        """The value of `name` in the operation's module; empty if it has none."""
        return frozenset(getattr(_module(self.op), name, ()))


def operations() -> list[str]:
    return sorted(config.table())


def cases(op: str) -> Iterator[Case]:
    dtypes = getattr(_module(op), "DTYPES", _DTYPES)
    for arch in ARCHITECTURES:
        for dims, entries in config.table()[op][arch].items():
            for dtype in dtypes:
                if {"*", str(dtype).removeprefix("torch.")} & entries.keys():
                    yield Case(op, arch, config.parse_dims(dims), dtype)


def recorded(case: Case, rows: int, kernels: type) -> list[dict[str, Any]]:
    """Name, grid, arguments by name and options of each launch, without running any.

    kernels: the class of which `run` launches, Triton's for compiled kernels or for interpreted ones.
    """
    found: list[dict[str, Any]] = []

    def record(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        signature = inspect.signature(self.fn)
        options = {name: value for name, value in kwargs.items() if name not in signature.parameters}
        bound = signature.bind(*args, **{name: value for name, value in kwargs.items() if name not in options})
        found.append({"kernel": self.fn.__name__, "grid": grid, **bound.arguments, **options})

    with mock.patch.object(kernels, "run", record):
        case.launch(rows)
    return found


def _module(op: str) -> Any:
    return importlib.import_module(f"aot.{op}")
