"""Everything about the kernels on one machine: their tests, their benchmarks, a memory check; one table last.

    python -m benchmarks.bench_gpu --out DIR [--device cpu --quick] [--ops OP ...]

Each operation with a `bench_<op>.py` takes part. The memory check is compute-sanitizer's, where that is installed, on
the tests in bfloat16. Exit code 1 if a test, a benchmark or the check fails. JSON, CSV and plots go to DIR.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import kernel_bench, roofline
from benchmarks.common import write_json
from benchmarks.verify import ROOT, verify

_SECONDS = 460  # of all; the memory check, which comes last, has what is left of them, and 30 at least


def benchmarks() -> dict[str, Any]:
    """The modules that benchmark single operations, by operation."""
    ops = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))
    known = [op for op in ops if (ROOT / "kernels" / f"{op}.py").exists()]
    return {op: importlib.import_module(f"benchmarks.bench_{op}") for op in known}


def main() -> None:
    begun = time.perf_counter()
    modules = benchmarks()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kernel_bench.add_options(parser)
    parser.add_argument("--ops", nargs="+", choices=modules, default=list(modules))
    options = parser.parse_args()
    device, dtype = kernel_bench.device_and_dtype(options)
    verify(options.ops)
    ceilings = roofline.measure(device, dtype)
    facts = kernel_bench.facts_of(device, dtype, ceilings)
    rows: list[dict[str, Any]] = []
    failed: list[str] = []
    for op in options.ops:
        try:
            found = kernel_bench.run(op, modules[op].cases(device, dtype, options.quick), device, ceilings)
        except (Exception, SystemExit) as reason:
            failed.append(f"{op}: {reason}")
            continue
        if options.out:
            kernel_bench.store(op, found, facts, options.out)
        rows += found
    if device.type == "cuda":
        failed += memcheck(options.ops, max(30.0, _SECONDS - (time.perf_counter() - begun)))
        torch.cuda.synchronize()
    if options.out:
        write_json(options.out / "kernels.json", {"machine": facts, "rows": rows, "failed": failed})
    print(f"{time.perf_counter() - begun:.0f} s")
    for reason in failed:
        print(f"FAILED {reason}")
    if rows:
        kernel_bench.show(rows, facts)
    sys.exit(1 if failed else 0)


def memcheck(ops: list[str], seconds: float) -> list[str]:
    """What compute-sanitizer finds in the tests of `ops`, at most one text; says so where it cannot run."""
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        print("memcheck: compute-sanitizer is not installed")
        return []
    tests = [str(ROOT / "tests" / "ops" / f"test_{op}.py") for op in ops]
    command = [sanitizer, "--tool", "memcheck", "--error-exitcode", "1", "--target-processes", "all"]
    command += [sys.executable, "-m", "pytest", "-q", "-x", "-k", "triton and bfloat16", *tests]
    # Without torch's cache every tensor is an allocation of its own, past which the check sees.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        print(f"memcheck: stopped after {seconds:.0f} s, nothing found until then")
        return []
    if done.returncode:
        return [f"memcheck: {done.stdout[-4000:]}{done.stderr[-1000:]}"]
    print(f"memcheck: {done.stdout.splitlines()[-1].strip('= ')}")
    return []


if __name__ == "__main__":
    main()
