"""bfloat16 in Triton's interpreter, which would compute on the bit patterns and truncate.

Values are stored as uint16. Around every operation they are widened to float32 and rounded to nearest even.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from triton import language as tl
from triton.runtime import interpreter as _module

interpreter: Any = _module  # private parts of it are replaced
_BUILDER = interpreter.InterpreterBuilder
_HANDLE = interpreter.TensorHandle


def widen(bits: np.ndarray) -> np.ndarray:
    """bfloat16 as uint16 → float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def narrow(values: np.ndarray) -> np.ndarray:
    """float32 → bfloat16 as uint16, to nearest even; every NaN becomes the quiet one."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    bits = values.view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def correct_bf16() -> None:
    """Patch the interpreter of this process."""
    for name in ("binary_op", "unary_op", "create_fma", "create_clampf"):
        _compute_in_float32(name)
    _correct_dot()
    _correct_casts()
    for operations in (interpreter.ReduceOps, interpreter.ScanOps):
        _correct_reduction(operations)


def _is_bf16(handle: Any) -> bool:
    return isinstance(handle, _HANDLE) and handle.dtype.scalar == tl.bfloat16 and handle.data.dtype == np.uint16


def _wide(handle: Any) -> Any:
    return _HANDLE(widen(handle.data), tl.float32) if _is_bf16(handle) else handle


def _compute_in_float32(name: str) -> None:
    compute = getattr(_BUILDER, name)

    def corrected(self: Any, *arguments: Any) -> Any:
        if not any(map(_is_bf16, arguments)):
            return compute(self, *arguments)
        result = compute(self, *map(_wide, arguments))
        if result.data.dtype == np.bool_:
            return _HANDLE(result.data, tl.int1)
        return _HANDLE(narrow(result.data), tl.bfloat16)

    setattr(_BUILDER, name, corrected)


def _correct_dot() -> None:
    dot = _BUILDER.create_dot

    def corrected(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return dot(self, _wide(a), _wide(b), *rest)

    _BUILDER.create_dot = corrected


def _correct_casts() -> None:
    cast, fp_to_fp = _BUILDER.cast_impl, _BUILDER.create_fp_to_fp

    def corrected(self: Any, source: Any, target: Any) -> Any:
        before, after = source.dtype.scalar, target.scalar
        if after == tl.bfloat16 and before != tl.bfloat16:
            return _HANDLE(narrow(source.data.astype(np.float32)), tl.bfloat16)
        if before == tl.bfloat16 and after != tl.bfloat16:
            return _HANDLE(widen(source.data).astype(interpreter._get_np_dtype(target)), after)
        return cast(self, source, target)

    def corrected_fp_to_fp(self: Any, source: Any, target: Any, mode: Any) -> Any:
        types = (source.dtype.scalar, target.scalar)
        if tl.bfloat16 in types and all(one.primitive_bitwidth >= 16 for one in types):
            return corrected(self, source, target)
        return fp_to_fp(self, source, target, mode)

    _BUILDER.cast_impl = corrected
    _BUILDER.create_fp_to_fp = corrected_fp_to_fp


def _correct_reduction(operations: Any) -> None:
    apply = operations.apply

    def corrected(self: Any, given: Any) -> Any:
        inputs = given if isinstance(given, tuple) else (given,)
        narrowed = [_is_bf16(one.handle) for one in inputs]
        if not any(narrowed):
            return apply(self, given)
        wide = tuple(
            _tensor(_wide(one.handle), tl.float32) if was else one for one, was in zip(inputs, narrowed, strict=True)
        )
        result = apply(self, wide if isinstance(given, tuple) else wide[0])
        outputs = result if isinstance(result, tuple) else (result,)
        back = tuple(
            _tensor(_HANDLE(narrow(one.handle.data), tl.bfloat16), tl.bfloat16) if was else one
            for one, was in zip(outputs, narrowed, strict=True)
        )
        return back if isinstance(result, tuple) else back[0]

    operations.apply = corrected


def _tensor(handle: Any, dtype: Any) -> Any:
    shape = np.shape(handle.data)
    return tl.core.tensor(handle, tl.block_type(dtype, list(shape)) if shape else dtype)
