"""No number of a kernel that is wrong: the tests of an operation, run before its benchmark, on the device at hand.

python -m benchmarks.verify layer_norm kv_cache
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def verify(ops: Sequence[str]) -> None:
    """Run tests/ops/test_OP.py of each operation. Raises SystemExit with their output if any fails."""
    tests = [str(ROOT / "tests" / "ops" / f"test_{op}.py") for op in ops]
    command = [sys.executable, "-m", "pytest", "-q", "-x", *tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{done.stdout}{done.stderr}\nno benchmark: the tests of {', '.join(ops)} fail")
    print(f"tests of {', '.join(ops)}: {done.stdout.splitlines()[-1].strip('= ')}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ops", nargs="+")
    verify(parser.parse_args().ops)


if __name__ == "__main__":
    main()
