"""Products with `input_precision="tf32x3"` in Triton's interpreter, which would compute them in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
from triton import language as tl
from triton.runtime import interpreter as _module

interpreter: Any = _module  # private parts of it are replaced
_DROPPED = 13  # bits of a float32's 23 that TF32 does not have


def nearest(values: np.ndarray) -> np.ndarray:
    """float32 → TF32, halves away from zero, as `cvt.rna.tf32.f32`; NaN and infinity stay."""
    bits = values.view(np.uint32)
    rounded = (bits + np.uint32(1 << (_DROPPED - 1))) & ~np.uint32((1 << _DROPPED) - 1)
    return np.where(np.isfinite(values), rounded.view(np.float32), values)


def cut(values: np.ndarray) -> np.ndarray:
    """float32 → TF32 towards zero, as a matrix instruction reads its operands."""
    return (values.view(np.uint32) & ~np.uint32((1 << _DROPPED) - 1)).view(np.float32)


def split(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two numbers in TF32 whose sum is nearly `values`."""
    large = nearest(values)
    with np.errstate(invalid="ignore"):  # infinity − infinity
        return large, cut(values - large)


def multiply_as_tf32() -> None:
    """Patch the interpreter of this process: three products from zero, and one addition, as the compiler makes them."""
    dot, handle = interpreter.InterpreterBuilder.create_dot, interpreter.TensorHandle

    def create_dot(self: Any, a: Any, b: Any, total: Any, precision: Any, *rest: Any) -> Any:
        if precision != interpreter._ir.INPUT_PRECISION.TF32x3 or a.data.dtype != np.float32:
            return dot(self, a, b, total, precision, *rest)
        large_a, small_a = split(np.ascontiguousarray(a.data))
        large_b, small_b = split(np.ascontiguousarray(b.data))
        with np.errstate(invalid="ignore"):
            small = small_a @ large_b + large_a @ small_b
            products = np.where(np.isfinite(small), small, np.float32(0)) + large_a @ large_b
        return handle(products + total.data, tl.float32)

    interpreter.InterpreterBuilder.create_dot = create_dot
