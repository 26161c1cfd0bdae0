"""Triton's interpreter as a memory and race checker, with bfloat16 and TF32 as a GPU rounds them, and faster.

Every active lane of every load and store must lie in an element of a tensor given to the launch. Two programs must not
access one element unless both only read it. Made for the version of Triton that pyproject.toml pins for tests.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from triton.runtime import interpreter as _module
from triton.tools.tensor_descriptor import TensorDescriptor

from support.interpreter_bf16 import correct_bf16
from support.interpreter_tf32 import multiply_as_tf32

interpreter: Any = _module  # private parts of it are replaced

_MANY = -1  # read by more than one program


class KernelMemoryError(AssertionError):
    """A kernel went out of bounds, or two of its programs accessed one element."""


class _Shadow:
    """For every byte of the tensors of a launch: whether it is part of an element, and which programs read and wrote
    it."""

    def __init__(self, arguments: list[Any]) -> None:
        spans = sorted(_span(tensor) for tensor in _tensors(arguments))
        merged: list[list[int]] = []
        for low, high in spans:
            if merged and low < merged[-1][1]:  # views of one buffer
                merged[-1][1] = max(high, merged[-1][1])
            else:
                merged.append([low, high])
        self.low = np.array([low for low, _ in merged], np.int64)
        self.high = np.array([high for _, high in merged], np.int64)
        sizes = self.high - self.low
        self.offset = np.cumsum(sizes) - sizes
        self.allowed = np.zeros(int(sizes.sum()), bool)
        for tensor in _tensors(arguments):
            self._allow(tensor)
        self.writer = np.zeros(len(self.allowed), np.int32)  # 0 for none, else 1 + the program
        self.reader = np.zeros(len(self.allowed), np.int32)

    def _allow(self, tensor: torch.Tensor) -> None:
        start = self.offset[np.searchsorted(self.low, tensor.data_ptr(), side="right") - 1]
        start += tensor.data_ptr() - self.low[np.searchsorted(self.low, tensor.data_ptr(), side="right") - 1]
        size = tensor.element_size()
        strides = (*(stride * size for stride in tensor.stride()), 1)
        np.lib.stride_tricks.as_strided(self.allowed[start:], (*tensor.shape, size), strides)[...] = True

    def locate(self, addresses: np.ndarray, width: int, what: str) -> np.ndarray:
        """Places in the shadow of elements of `width` bytes; raises KernelMemoryError for one that is in no tensor."""
        if not len(self.low):
            raise KernelMemoryError(f"{what} without a tensor in the launch")
        index = np.maximum(np.searchsorted(self.low, addresses, side="right") - 1, 0)
        place = self.offset[index] + addresses - self.low[index]
        wrong = (addresses < self.low[index]) | (addresses + width > self.high[index])
        wrong[~wrong] = ~self.allowed[place[~wrong]]
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            past = int(addresses[first] - self.high[index[first]]) + width
            raise KernelMemoryError(
                f"{what}: {int(wrong.sum())} of {len(addresses)} active lanes out of bounds; the first ends {past:+d} "
                f"bytes from the end of buffer {int(index[first])}"
            )
        return place

    def read(self, place: np.ndarray, program: int, what: str) -> None:
        self._refuse(self.writer[place], program, f"race: {what} of what another program stored")
        before = self.reader[place]
        self.reader[place] = np.where((before == 0) | (before == program), program, _MANY)

    def write(self, place: np.ndarray, program: int, what: str) -> None:
        self._refuse(self.writer[place], program, f"race: {what} to what another program stored")
        self._refuse(self.reader[place], program, f"race: {what} to what another program loaded")
        self.writer[place] = program

    @staticmethod
    def _refuse(owner: np.ndarray, program: int, message: str) -> None:
        if ((owner != 0) & (owner != program)).any():
            raise KernelMemoryError(message)


def _tensors(arguments: Any) -> list[torch.Tensor]:
    if isinstance(arguments, (tuple, list)):
        return [tensor for argument in arguments for tensor in _tensors(argument)]
    if isinstance(arguments, TensorDescriptor):
        return _tensors(arguments.base)
    return [arguments] if isinstance(arguments, torch.Tensor) and arguments.numel() else []


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + extent * tensor.element_size()


_shadow = _Shadow([])


def install() -> None:
    """Patch the interpreter of this process; once, after Triton was imported with TRITON_INTERPRET=1."""
    interpreter.interpreter_builder.options = interpreter.InterpreterOptions(debug=True)  # asserts, int32 overflow
    multiply_as_tf32()
    correct_bf16()
    _keep_comparisons_boolean()
    _guard_launches()
    _guard_memory()
    _patch_language_once()


def _keep_comparisons_boolean() -> None:
    """The interpreter gives a comparison of scalars the type of its operands, which is wrong when it becomes a
    block."""
    builder = interpreter.InterpreterBuilder
    splat = builder.create_splat

    def corrected(self: Any, kind: Any, argument: Any) -> Any:
        if argument.data.dtype == np.bool_:
            return interpreter.TensorHandle(np.full(kind.shape, argument.data), interpreter.tl.int1)
        return splat(self, kind, argument)

    builder.create_splat = corrected


def _guard_launches() -> None:
    prepare = interpreter.GridExecutor._init_args_hst

    def prepare_guarded(self: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        global _shadow
        on_host, named = prepare(self, args, kwargs)
        _shadow = _Shadow([*on_host, *named.values()])
        return on_host, named

    interpreter.GridExecutor._init_args_hst = prepare_guarded


def _guard_memory() -> None:
    builder = interpreter.InterpreterBuilder
    load, store, update = builder.create_masked_load, builder.create_masked_store, builder.create_atomic_rmw

    def guarded_load(self: Any, ptrs: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        place, _, program, what = _active(self, ptrs, mask, "load")
        _shadow.read(place, program, what)
        return load(self, ptrs, mask, *rest, **named)

    def guarded_store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        place, active, program, what = _active(self, ptrs, mask, "store")
        _shadow.write(place, program, what)
        _refuse_contradiction(place, np.broadcast_to(value.data, active.shape)[active], what)
        return store(self, ptrs, value, mask, *rest, **named)

    def guarded_update(self: Any, operation: Any, ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
        _active(self, ptrs, mask, "atomic update")
        return update(self, operation, ptrs, value, mask, *rest)

    builder.create_masked_load = guarded_load
    builder.create_masked_store = guarded_store
    builder.create_atomic_rmw = guarded_update


def _active(builder: Any, ptrs: Any, mask: Any, kind: str) -> tuple[np.ndarray, np.ndarray, int, str]:
    """Places of the active lanes, the mask, the number of the program, and a description of the access."""
    active = np.broadcast_to(mask.data, np.broadcast_shapes(ptrs.data.shape, mask.data.shape)).astype(bool)
    addresses = np.broadcast_to(ptrs.data, active.shape)[active].astype(np.int64)
    x, y, z = builder.grid_idx
    what = f"{kind} by program ({x}, {y}, {z})"
    width = max(1, ptrs.get_element_ty().primitive_bitwidth // 8)
    place = _shadow.locate(addresses, width, what) if len(addresses) else addresses
    return place, active, 1 + x + builder.grid_dim[0] * (y + builder.grid_dim[1] * z), what


def _refuse_contradiction(place: np.ndarray, values: np.ndarray, what: str) -> None:
    """Lanes of one store may share an element only if they store the same bits."""
    order = np.argsort(place, kind="stable")
    place, bits = place[order], np.ascontiguousarray(values[order]).view(f"u{values.dtype.itemsize}")
    if ((place[1:] == place[:-1]) & (bits[1:] != bits[:-1])).any():
        raise KernelMemoryError(f"race: {what} of two values to one element")


def _patch_language_once() -> None:
    """The interpreter replaces the functions of `triton.language` at every launch and every helper; here only once."""
    patch, done = interpreter._patch_lang, set()

    class Nothing:
        def restore(self) -> None: ...

    def patch_once(function: Any) -> Any:
        languages = (interpreter.tl, interpreter.tl.core)
        key = tuple(sorted({id(value) for value in function.__globals__.values() if value in languages}))
        if key not in done:
            done.add(key)
            patch(function)
        return Nothing()

    interpreter._patch_lang = patch_once
