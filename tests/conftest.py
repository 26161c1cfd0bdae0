"""Fixtures for every test: tiny checkpoints, backends, and a check that allocated memory is written."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers and huggingface_hub are imported

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: kernels then run on CPU tensors

from seamless_kernels import dispatch, jit, native
from support.checkpoint import write_tiny
from support.packed import BACKENDS

if jit.interpreted():
    from support.interpreter import install

    install()

# The interpreter's tests need the interpreter, and tests of compiled kernels need Triton.
collect_ignore = [] if jit.interpreted() else ["test_interpreter.py"]
if not jit.available():
    collect_ignore.append("aot")

_OWN_PACKAGES = ("seamless_engine", "seamless_kernels")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`checkpoint(seed, **options)`: the folder of a tiny random checkpoint, written once; options as `write_tiny`."""

    @functools.cache
    def build(seed: int = 0, **options: Any) -> Path:
        return write_tiny(tmp_path_factory.mktemp("checkpoint"), seed, **options)

    return build


@pytest.fixture(autouse=True)
def backends_are_chosen_in_each_test() -> Iterator[None]:
    """A test that sets SEAMLESS_BACKEND before it calls an operation does not see what an earlier test chose."""
    dispatch.reset()
    yield
    dispatch.reset()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test once for each implementation of an operation that the machine has; other ones by `indirect`."""
    monkeypatch.setenv("SEAMLESS_BACKEND", request.param)
    return request.param


@pytest.fixture
def products_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter sums products in the order of a GPU, so that tiles of any shape have the same bits."""
    if jit.interpreted():
        from support.interpreter import interpreter
        from support.ordered import ordered

        builder = interpreter.InterpreterBuilder
        monkeypatch.setattr(builder, "create_dot", ordered(builder.create_dot))


@pytest.fixture(params=native.csrc.instruction_sets() if native.csrc else [])
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test once with each instruction set that csrc/ has code for and this processor has."""
    assert native.csrc is not None
    before = native.csrc.instruction_set()
    native.csrc.use_instruction_set(request.param)
    yield request.param
    native.csrc.use_instruction_set(before)


@pytest.fixture(scope="session", autouse=True)
def unwritten_memory_shows() -> Iterator[None]:
    """Memory that our packages allocate uninitialized is filled with NaN or the largest integer, so that tests see
    it."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (torch, "empty"),
            (torch, "empty_like"),
            (torch, "empty_strided"),
            (torch.Tensor, "new_empty"),
        ):
            patch.setattr(owner, name, _poisoned(getattr(owner, name)))
        yield


def _poisoned(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(allocate)
    def allocate_poisoned(*args: Any, **kwargs: Any) -> torch.Tensor:
        tensor = allocate(*args, **kwargs)
        if sys._getframe(1).f_globals.get("__name__", "").startswith(_OWN_PACKAGES):
            if tensor.is_floating_point():
                tensor.fill_(float("nan"))
            elif tensor.dtype != torch.bool:
                tensor.fill_(torch.iinfo(tensor.dtype).max)
        return tensor

    return allocate_poisoned
