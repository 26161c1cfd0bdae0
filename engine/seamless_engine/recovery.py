"""Passes that fail: the batch is halved until the request that causes it is alone, and only that one fails."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from seamless_engine.errors import CapacityError, SeamlessError

_log = logging.getLogger(__name__)
Item = TypeVar("Item")


class UnrepeatableError(Exception):
    """A pass failed when it had begun to change what it reads."""


def bisect_batch(run: Callable[[list[Item]], None], items: list[Item]) -> list[tuple[Item, Exception]]:
    """`run(items)`, and again on each half of them when it raises. Returns the items that fail alone, and why.

    `run` must bear being called again with items of a run that failed, or raise UnrepeatableError: then all of them
    fail. What does not fit the memory with others may fit alone, and its result is the same. A device that broke is no
    item's fault: its error is raised.
    """
    try:
        run(items)
        return []
    except torch.AcceleratorError:
        raise
    except UnrepeatableError as error:
        reason = settled(error)
        return [(item, reason) for item in items]
    except Exception as error:
        if len(items) == 1:
            return [(items[0], settled(error))]
    # Here and not in the handler, whose traceback keeps the tensors that filled the memory.
    torch.cuda.empty_cache()
    half = len(items) // 2
    return bisect_batch(run, items[:half]) + bisect_batch(run, items[half:])


def settled(error: Exception) -> Exception:
    """The error of one request, fit to be kept: without a traceback, which holds the tensors of its frames."""
    if is_out_of_memory(error):
        advice = "split its input or free memory"
        return CapacityError(f"out of memory for this request alone: {advice} ({error})", out_of_memory=True)
    if not isinstance(error, SeamlessError):
        _log.error("a request failed in a way that was not foreseen", exc_info=error)
    return error.with_traceback(None)


def is_out_of_memory(error: BaseException) -> bool:
    """torch has a class for it on a GPU; on a CPU its allocator and oneDNN raise plain RuntimeErrors."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return "DefaultCPUAllocator" in str(error) or str(error) == "could not create a primitive"
