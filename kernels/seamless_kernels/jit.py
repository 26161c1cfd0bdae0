"""Triton for the kernel files, or a substitute where it is not installed, so that the references run without it.

A kernel file does `from seamless_kernels.jit import jit, tl, triton` and uses no other name of Triton at module level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    # The types of Triton's library do not fit its own language, in which kernels are written.
    class _Language(type):
        def __getattr__(cls, name: str) -> Any: ...

    class tl(metaclass=_Language):
        constexpr: TypeAlias = Any

    triton: Any
    knobs: Any
else:
    try:
        import triton
        import triton.language as tl
        from triton import knobs
    except ImportError:
        triton = tl = knobs = None


def available() -> bool:
    """Whether Triton is installed."""
    return triton is not None


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU: TRITON_INTERPRET was 1 when Triton was imported."""
    return available() and knobs.runtime.interpret


def jit(function: Callable[..., Any] | None = None, *, do_not_specialize: Sequence[str] = ()) -> Any:
    """`triton.jit`, as `@jit` or `@jit(do_not_specialize=["M"])`; without Triton the function itself.

    Name every argument that depends on the batch in `do_not_specialize`: Triton otherwise compiles another kernel where
    it is 1 or a multiple of 16, and results must not depend on the batch.
    """
    if function is None:
        return lambda decorated: jit(decorated, do_not_specialize=do_not_specialize)
    if not available():
        return function
    return triton.jit(do_not_specialize=list(do_not_specialize))(function)
