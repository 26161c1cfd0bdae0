"""Checks of option values. They return plain Python values; scalars of NumPy and 0-d tensors are numbers."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from seamless_engine.errors import UsageError

LARGEST = 2**31 - 1  # the tables on the device are int32


def plain(value: Any) -> Any:
    """The Python value of a NumPy scalar, or of a tensor or array without dimensions; any other value itself."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


def check_fields(options: object, checks: Mapping[str, Callable[[str, Any], Any]], optional: Collection[str]) -> None:
    """Replace each field of a frozen dataclass by what its check returns. Those that are `optional` may be None."""
    for name, check in checks.items():
        value = getattr(options, name)
        if value is not None or name not in optional:
            object.__setattr__(options, name, check(name, value))


def integer(name: str, value: Any, low: int = 0, high: int = LARGEST) -> int:
    """`value` as an int. Raises UsageError for bools, for floats (2.0 as well), and outside of [low, high]."""
    found = plain(value)
    try:
        if isinstance(found, bool) or getattr(found, "ndim", 0):
            raise TypeError
        found = operator.index(found)
    except TypeError:
        raise UsageError(f"{name} must be an integer, not {value!r}") from None
    if not low <= found <= high:
        limit = f"at least {low}" if high == LARGEST and found < low else f"between {low} and {high}"
        raise UsageError(f"{name} must be {limit}, not {found}")
    return found


def rate(value: Any, low: int = 1) -> int:
    """A sampling rate in Hz; a float such as 16000.0, as some tables have it, is accepted. Raises UsageError."""
    found = plain(value)
    return integer("sampling_rate", int(found) if isinstance(found, float) and found.is_integer() else found, low)


def number(name: str, value: Any, low: float, high: float) -> float:
    """`value` as an int or a float. Raises UsageError for bools, NaN and infinity, and outside of [low, high]."""
    found = plain(value)
    if isinstance(found, bool) or not isinstance(found, int | float) or not low <= found <= high:
        raise UsageError(f"{name} must be a number between {low:g} and {high:g}, not {value!r}")
    return found if type(found) is int else float(found)


def switch(name: str, value: Any) -> bool:
    """`value` as a bool. Raises UsageError for anything else, numbers too."""
    found = plain(value)
    if not isinstance(found, bool):
        raise UsageError(f"{name} must be True or False, not {value!r}")
    return found


def token_list(name: str, value: Any, nested: bool = False) -> Any:
    """A list of token ids, or of lists of them, as tuples, which are hashable. Raises UsageError."""
    entries = _listed(value)
    try:
        if not entries:
            raise UsageError
        return tuple(token_list(name, entry) if nested else integer(name, entry) for entry in entries)
    except UsageError:
        expected = "[[12, 7], [9]]" if nested else "[12, 9]"
        raise UsageError(f"{name} must look like {expected}, not {value!r}") from None


def slope_and_offset(name: str, value: Any) -> tuple[float, float]:
    """(a, b) of a limit a · length + b. Raises UsageError."""
    entries = _listed(value)
    try:
        slope, offset = (number(name, entry, 0.0, 1e6) for entry in entries or ())
    except ValueError:  # also UsageError
        raise UsageError(f"{name} must look like (a, b), two numbers between 0 and 1e+06, not {value!r}") from None
    return slope, offset


def _listed(value: Any) -> list[Any] | None:
    """The entries of a list, array, tensor or other iterable; None for other values, for strings and for mappings."""
    if getattr(value, "ndim", 0):
        return value.tolist()
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable) or hasattr(value, "ndim"):
        return None
    return list(value)
