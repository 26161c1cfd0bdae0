"""What the machine can do at best, measured: bytes per second of a copy, operations per second of a matrix product.

    python -m benchmarks.roofline --device cuda

A kernel's floor is the larger of its least bytes at the first and its operations at the second.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

_COPY_BYTES = {"cuda": 2 << 30, "cpu": 64 << 20}  # far more than any cache, on a GPU
_MATMUL_SIZE = {"cuda": 8192, "cpu": 1024}
_FLUSH_BYTES = 512 << 20  # written before every timed call on a GPU: more than ten times an H100's L2 cache
_SECONDS = {"cuda": 0.15, "cpu": 0.5}  # of timed calls
_FEWEST, _MOST = 5, 200  # timed calls


class Ceilings(NamedTuple):
    """bandwidth: bytes per second, read and written; matmul: floating-point operations per second."""

    bandwidth: float
    matmul: float

    def floor(self, operations: float, least_bytes: float) -> float:
        """Seconds that work of this size takes at least."""
        return max(operations / self.matmul, least_bytes / self.bandwidth)


def median_seconds(call: Callable[[int], Any], device: torch.device) -> float:
    """Median time of `call(i)`, i the number of the call, after two that warm up.

    On a GPU by events, each call after a flush of the L2 cache, which also gives the host the time to run ahead.
    """
    call(0)
    begun = time.perf_counter()
    call(1)
    _wait(device)
    once = max(time.perf_counter() - begun, 1e-7)
    count = min(max(_FEWEST, int(_SECONDS[device.type] / once)), _MOST)
    if device.type == "cuda":
        return _by_events(call, count, device)
    seconds = []
    for i in range(count):
        begun = time.perf_counter()
        call(i)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def _by_events(call: Callable[[int], Any], count: int, device: torch.device) -> float:
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device=device)
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
    for i, (before, after) in enumerate(events):
        flush.zero_()
        before.record()
        call(i)
        after.record()
    _wait(device)
    return statistics.median(before.elapsed_time(after) for before, after in events) / 1e3


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """The two ceilings of `device`, the product in `dtype`."""
    return Ceilings(_copy(_COPY_BYTES[device.type], device), _product(_MATMUL_SIZE[device.type], device, dtype))


def _copy(size: int, device: torch.device) -> float:
    source = torch.ones(size, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return 2 * size / median_seconds(lambda _: target.copy_(source), device)


def _product(size: int, device: torch.device, dtype: torch.dtype) -> float:
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / median_seconds(lambda _: a @ b, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="bfloat16")
    options = parser.parse_args()
    found = measure(torch.device(options.device), getattr(torch, options.dtype))
    print(f"copy {found.bandwidth / 1e9:.0f} GB/s, {options.dtype} product {found.matmul / 1e12:.2f} TFLOP/s")


if __name__ == "__main__":
    main()
