"""What every benchmark prints and stores: the machine and its versions, a table, JSON."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.host import commit
from benchmarks.roofline import Ceilings
from seamless_engine import environment

RESULTS = Path("benchmarks/results")
_PACKAGES = ("torch", "triton", "transformers", "ctranslate2", "numpy", "sentencepiece")
_DRIVER = "driver_version,power.limit,clocks.max.sm,clocks.max.mem"


def machine(device: str, dtype: torch.dtype | None = None, ceilings: Ceilings | None = None) -> dict[str, Any]:
    """Hardware and versions that a number depends on, and the machine's ceilings as measured in this run."""
    processor = f"{environment.cpu_name()} ({torch.backends.cpu.get_cpu_capability()})"
    facts: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else processor,
        "commit": commit(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: environment.package_version(name) for name in _PACKAGES},
    }
    if device == "cuda" and shutil.which("nvidia-smi"):
        command = ["nvidia-smi", f"--query-gpu={_DRIVER}", "--format=csv,noheader"]
        facts[_DRIVER] = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    if dtype:
        facts["dtype"] = str(dtype).removeprefix("torch.")
    if ceilings:
        facts["copy_gbps"] = round(ceilings.bandwidth / 1e9, 1)
        facts["matmul_tflops"] = round(ceilings.matmul / 1e12, 3)
    return facts


def print_facts(facts: dict[str, Any]) -> None:
    print("  ".join(f"{key}={value}" for key, value in facts.items()), flush=True)


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """None is an empty cell."""
    cells = [list(header), *[[_cell(value) for value in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for row in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def write_json(path: Path, content: Any, quiet: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if not quiet:
        print(f"written: {path}")
