"""Compile the kernels of kernels/seamless_kernels/configs.json for GPUs, on any machine, and print their resources.

    python tests/aot/compile.py [--op OP ...] [--arch ARCH ...] [--dtype DTYPE ...] [--write]

Prints one JSON object: {"op/arch/dims/dtype/kernel": {registers, stack, shared, mma}}. `--write` puts the rows into
resources.json, the table that the tests compare with. Runs in a process of its own, because a process that interprets
kernels cannot compile them.
"""

from __future__ import annotations

import os

os.environ.pop("TRITON_INTERPRET", None)  # before Triton is imported

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from aot.launches import ARCHITECTURES, Case, cases, operations

RESOURCES = Path(__file__).with_name("resources.json")
# Triton specializes on 1 and multiples of 16; the other numbers select every tile
_ROWS = (1000, 1, 16, 320, 500, 2000, 16_000)
_MMA = {"tcgen05.mma": "tcgen05", "wgmma.mma_async": "wgmma", "mma.sync": "mma"}


class Driver:
    """The part of a GPU's driver that the compiler needs."""

    def __init__(self, arch: str) -> None:
        self.target = GPUTarget("cuda", int(arch.removeprefix("sm_")), 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int | str:
        return self.target.arch  # Triton caches kernels by device

    def get_current_stream(self, device: int) -> int:
        return 0


def compiled(case: Case) -> list[tuple[str, Any]]:
    """Name and kernel of each different launch of a case.

    Raises ValueError if another number of tokens compiles another kernel, unless the operation declares a SCHEDULING.
    """
    found: dict[str, tuple[str, Any]] = {}
    launch = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        kernel: Any = launch(self, *args, grid=grid, warmup=True, **kwargs)
        found[kernel.hash] = (self.fn.__name__, kernel)
        return kernel

    driver: Any = Driver(case.arch)
    triton.runtime.driver.set_active(driver)
    with mock.patch.object(JITFunction, "run", compile_only):
        case.launch(_ROWS[0])
        first = set(found)
        for rows in _ROWS[1:]:
            case.launch(rows)
            others = [name for hash_, (name, _) in found.items() if hash_ not in first]
            if others and not case.declared("SCHEDULING"):
                raise ValueError(
                    f"{case}: {others} for {rows} tokens: name what depends on the batch in do_not_specialize"
                )
    return list(found.values())


def resources(kernel: Any) -> dict[str, Any]:
    """Registers of a thread, its bytes of stack (spills are there), shared memory of a program, matrix instructions."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(kernel.asm["cubin"])
        cubin.flush()
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", cubin.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    numbers = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    mma = next((kind for instruction, kind in _MMA.items() if instruction in kernel.asm["ptx"]), None)
    return {
        "registers": numbers["REG"],
        "stack": numbers["STACK"] + numbers["LOCAL"],
        "shared": kernel.metadata.shared,
        "mma": mma,
    }


def measure(case: Case) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for name, kernel in compiled(case):
        key = f"{case}/{name}"
        while key in rows:  # another variant of the same kernel, in the order of the launches
            key += "'"
        rows[key] = resources(kernel)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", nargs="+", choices=operations(), default=operations())
    parser.add_argument("--arch", nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES)
    parser.add_argument("--dtype", nargs="+", choices=("float32", "float16", "bfloat16"), default=None)
    parser.add_argument("--write", action="store_true", help="put the rows into resources.json")
    options = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    for case in (case for op in options.op for case in cases(op)):
        if case.arch in options.arch and str(case.dtype).removeprefix("torch.") in (options.dtype or str(case.dtype)):
            rows.update(measure(case))
    if options.write:
        write(rows)
    print(json.dumps(rows))


def write(rows: dict[str, dict[str, Any]]) -> None:
    """Replace the rows of resources.json that have the keys of `rows`, one row a line."""
    merged = (json.loads(RESOURCES.read_text(encoding="utf-8")) if RESOURCES.exists() else {}) | rows
    lines = [f" {json.dumps(key)}: {json.dumps(merged[key])}" for key in sorted(merged)]
    RESOURCES.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
