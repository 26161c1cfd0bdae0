"""No number of a kernel that is wrong: the tests of an operation, run before its benchmark, on the device at hand.

python -m benchmarks.verify layer_norm kv_cache
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# On a GPU the tests spend their time compiling, one kernel after the other, most of them of this operation.
_PARTS = {"linear": ("float32", "bfloat16", "not float32 and not bfloat16")}
_WITH = {"linear": ("int8",)}  # what is measured with an operation


def verify(ops: Sequence[str]) -> None:
    """Run tests/ops/test_OP.py of each operation, in as many processes as half the cores.

    Raises SystemExit with their output if any fails.
    """
    tests = [test for op in ops for test in (op, *_WITH.get(op, ()))]
    parts = [(op, part) for op in tests for part in _PARTS.get(op, ("",))]
    parts.sort(key=lambda one: one[0] not in _PARTS)  # the longest first
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2)) as pool:
        runs = list(zip(parts, pool.map(lambda one: _run(*one), parts), strict=True))
    failed = [(op, done) for (op, _), done in runs if done.returncode]
    if failed:
        output = "\n".join(f"{done.stdout}{done.stderr}" for _, done in failed)
        raise SystemExit(f"{output}\nno benchmark: the tests of {', '.join(op for op, _ in failed)} fail")
    for (op, part), done in runs:
        print(f"tests of {op}{part and f' ({part})'}: {done.stdout.splitlines()[-1].strip('= ')}", flush=True)


def _run(op: str, part: str) -> subprocess.CompletedProcess[str]:
    tests = str(ROOT / "tests" / "ops" / f"test_{op}.py")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-k", part, tests]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ops", nargs="+")
    verify(parser.parse_args().ops)


if __name__ == "__main__":
    main()
