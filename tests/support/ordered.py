"""Matrix products of Triton's interpreter as a GPU makes them: an element's sum has one order, anywhere in a tile.

The interpreter's own products are BLAS calls. Their order of summation depends on the shape of the tile and the
element's place in it, so no kernel could be shown to be batch-invariant there.
"""

from __future__ import annotations

from typing import Any

from support.interpreter import interpreter


def ordered(dot: Any) -> Any:
    """`InterpreterBuilder.create_dot` that adds the products one by one, in the order of the reduction."""

    def create_dot(self: Any, a: Any, b: Any, total: Any, *rest: Any) -> Any:
        for k in range(a.data.shape[1]):
            column = interpreter.TensorHandle(a.data[:, k : k + 1], a.dtype)
            row = interpreter.TensorHandle(b.data[k : k + 1], b.dtype)
            total = dot(self, column, row, total, *rest)
        return total

    return create_dot
