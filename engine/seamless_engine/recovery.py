"""Recovery from passes that fail: halves of the batch run again, until only the request that causes it fails."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from seamless_engine.errors import CapacityError, SeamlessError

_log = logging.getLogger(__name__)
Item = TypeVar("Item")


class UnrepeatableError(Exception):
    """A pass failed after it had begun to change what it reads."""


def bisect_batch(run: Callable[[list[Item]], None], items: list[Item]) -> list[tuple[Item, Exception]]:
    """`run(items)`; if it raises, the same with each half of them. Returns the items that fail alone, and their errors.

    So a batch that does not fit the memory is run in parts that do, with the same results. `run` must allow for items
    of a failed run to be run again; where it cannot, it raises UnrepeatableError, and all of its items fail. The error
    of a device that is broken is raised: it is not the fault of an item.
    """
    try:
        run(items)
        return []
    except torch.AcceleratorError:
        raise
    except UnrepeatableError as error:
        reason = request_error(error)
        return [(item, reason) for item in items]
    except Exception as error:
        if len(items) == 1:
            return [(items[0], request_error(error))]
    # Not in the handler: the traceback of its error holds the tensors that fill the memory.
    torch.cuda.empty_cache()
    half = len(items) // 2
    return bisect_batch(run, items[:half]) + bisect_batch(run, items[half:])


def request_error(error: Exception) -> Exception:
    """The error of a single request. It has no traceback: that would hold the tensors of its frames."""
    if is_out_of_memory(error):
        advice = "split its input or free memory"
        return CapacityError(f"out of memory for this request alone: {advice} ({error})", out_of_memory=True)
    if not isinstance(error, SeamlessError):
        _log.error("a request failed with an unexpected error", exc_info=error)
    return error.with_traceback(None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: torch has a class for that on a GPU; on a CPU it and oneDNN raise RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return "DefaultCPUAllocator" in str(error) or str(error) == "could not create a primitive"
