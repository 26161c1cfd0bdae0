"""Operations on this machine: their tests, then their times against the measured ceilings.

    python -m benchmarks.kernels [OP ...] [--device cuda] [--dtype bfloat16] [--out DIR] [--quick] [--compiled]

Without OP, all operations. With --out, DIR/kernels.json. An operation whose tests fail gets no number. Exit code 1 if a
test or a benchmark fails.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import roofline
from benchmarks.kernels.case import Setup
from benchmarks.kernels.registry import CASES
from benchmarks.kernels.runner import failing_tests, run, show
from benchmarks.report import machine, print_facts, write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ops", nargs="*", choices=[*CASES, []], metavar="OP", help=", ".join(CASES))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="default: float32 on the CPU")
    parser.add_argument("--out", type=Path, help="folder for kernels.json")
    parser.add_argument("--quick", action="store_true", help="the smallest shapes, to try the benchmark itself")
    parser.add_argument("--compiled", action="store_true", help="also what torch.compile makes, which takes minutes")
    options = parser.parse_args()
    device = torch.device(options.device)
    dtype = getattr(torch, options.dtype or ("float32" if options.device == "cpu" else "bfloat16"))
    ops = options.ops or list(CASES)
    wrong = failing_tests(ops, options.device)
    ceilings, setup = roofline.measure(device, dtype), Setup(device, dtype, options.quick, options.compiled)
    rows: list[dict[str, Any]] = []
    failed = [f"{op}: its tests" for op in wrong]
    for op in (op for op in ops if op not in wrong):
        try:
            for row in run(op, CASES[op](setup), device, ceilings):
                rows.append(row)
        except (Exception, SystemExit) as error:
            failed.append(f"{op}: {error}")
    facts = machine(options.device, dtype, ceilings)
    if options.out:
        write_json(options.out / "kernels.json", {"machine": facts, "rows": rows, "failed": failed})
    print_facts(facts)
    if rows:
        show(rows)
    sys.exit("\n".join(f"FAILED {reason}" for reason in failed) or 0)


if __name__ == "__main__":
    main()
