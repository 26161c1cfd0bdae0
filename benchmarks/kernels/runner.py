"""Tests an operation, times every implementation of its cases, and shows them against the machine's ceilings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.clock import median_seconds
from benchmarks.kernels.case import Case
from benchmarks.report import print_table
from benchmarks.roofline import Ceilings

ROOT = Path(__file__).resolve().parents[2]
_COPIES = 4  # sets of inputs that calls take in turn
_DISAGREEMENT = 0.03  # relative difference of norms that two correct 16-bit results stay below
# The tests of what the engine runs on a device. The others compare what the libraries of torch compute, which are not
# batch-invariant on a GPU.
OUR_TESTS = {"cuda": "triton or packed or kernel or graph", "cpu": ""}
# Of linear, int8 is measured too; on a GPU its tests compile for longer than those of all others, so they are split.
_TESTS = {
    "linear": [("linear", part) for part in ("float32", "bfloat16", "not float32 and not bfloat16")] + [("int8", "")]
}


def failing_tests(ops: Sequence[str], device: str) -> dict[str, str]:
    """Run tests/ops/test_OP.py of each operation on the device at hand, in as many processes as half the cores.

    Returns the output of those that fail, by operation: a wrong kernel gets no number.
    """
    tests = sorted((test for op in ops for test in _TESTS.get(op, [(op, "")])), key=lambda test: not test[1])
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2)) as pool:
        runs = list(zip(tests, pool.map(partial(_run_tests, device), tests), strict=True))
    failing: dict[str, str] = {}
    for (file, part), done in runs:
        output = f"{done.stdout}{done.stderr}"
        if done.returncode:
            op = next(op for op in ops if (file, part) in _TESTS.get(op, [(op, "")]))
            failing[op] = failing.get(op, "") + output
            print(output)
        print(f"tests of {file}{part and f' ({part})'}: {done.stdout.splitlines()[-1].strip('= ')}", flush=True)
    return failing


def _run_tests(device: str, test: tuple[str, str]) -> subprocess.CompletedProcess[str]:
    file, part = test
    chosen = " and ".join(f"({words})" for words in (OUR_TESTS[device], part) if words)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-k", chosen, f"tests/ops/test_{file}.py"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@torch.inference_mode()
def run(op: str, cases: Iterable[Case], device: torch.device, ceilings: Ceilings) -> Iterator[dict[str, Any]]:
    """A row for each case and implementation: microseconds, TFLOP/s, GB/s, and the floor's share of the time.

    One that does not compute the same as ours gets no row. Raises SystemExit at the end if there was any.
    """
    wrong = []
    for case in cases:
        inputs = [case.inputs() for _ in range(_COPIES)]
        floor, ours = ceilings.floor(case.flops, case.least_bytes), None
        for name, call in case.implementations.items():
            try:
                result = call(*inputs[0])
                seconds = median_seconds(lambda i, call=call, inputs=inputs: call(*inputs[i % _COPIES]), device)
            except Exception as error:
                if ours is None:
                    raise
                print(f"{op}, {case.name}: no {name}: {(str(error).splitlines() or [repr(error)])[0]}", flush=True)
                continue
            ours = result if ours is None else ours
            try:
                check_agreement(ours, result, f"{op}, {case.name}: {name}")
            except SystemExit as error:
                wrong.append(str(error))
                continue
            yield {
                "op": op,
                "case": case.name,
                "provider": name,
                "us": seconds * 1e6,
                "tflops": case.flops / seconds / 1e12,
                "gbps": case.least_bytes / seconds / 1e9,
                "share": floor / seconds,
                "bound": "bytes" if case.least_bytes / ceilings.bandwidth >= floor else "operations",
            }
    if wrong:
        raise SystemExit("\n".join(wrong))


def check_agreement(ours: Any, theirs: Any, what: str) -> None:
    """Raises SystemExit if an implementation does not compute the same: its time would mean nothing."""
    if isinstance(ours, (tuple, list)) and isinstance(theirs, (tuple, list)):
        for one, other in zip(ours, theirs, strict=True):
            check_agreement(one, other, what)
    elif isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor) and ours.is_floating_point():
        if ours.shape != theirs.shape:
            raise SystemExit(f"{what} gives {tuple(theirs.shape)} for {tuple(ours.shape)}")
        difference = (ours.float() - theirs.float()).norm() / ours.float().norm().clamp(min=1e-6)
        if not difference.item() < _DISAGREEMENT:
            raise SystemExit(f"{what} differs from ours by {difference.item():.3g}")


def show(rows: list[dict[str, Any]]) -> None:
    """A line for each case with ours against the ceilings, then a column of microseconds per implementation."""
    providers = list(dict.fromkeys(row["provider"] for row in rows))
    times = {(row["op"], row["case"], row["provider"]): row["us"] for row in rows}
    lines = []
    for ours in (row for row in rows if row["provider"] == providers[0]):
        case = ours["op"], ours["case"]
        numbers = [ours[key] for key in ("bound", "tflops", "gbps", "share")]
        lines.append([*case, *numbers, *(times.get((*case, name)) for name in providers)])
    header = ["op", "case", "bound", "TFLOP/s", "GB/s", "share", *(f"{name} µs" for name in providers)]
    print_table(header, lines)
