"""Every entry of configs.json, without a GPU: it compiles within its resources, and only the grid depends on the
batch."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from aot.launches import ARCHITECTURES, Case, cases, operations, recorded
from seamless_kernels import jit

FOLDER = Path(__file__).parent
# Bytes of a program at most. The entries for sm_80 also serve sm_86, sm_89 and sm_120, which have less than sm_80.
SHARED_MEMORY = {"sm_80": 101_376, "sm_90": 232_448, "sm_100": 232_448}
REGISTERS = 255  # of a thread at most
ROWS = (1, 2, 7, 16, 300, 1280, 16_000)  # of a decode step of one request, of a full one, of an encoder pass


def compiled(op: str, arch: str, dtypes: list[str]) -> dict[str, Any]:
    """Rows of `compile.py`, in a process of its own: here kernels may be interpreted."""
    command = [sys.executable, str(FOLDER / "compile.py"), "--op", op, "--arch", arch, "--dtype", *dtypes]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@functools.cache
def table() -> dict[str, Any]:
    return json.loads((FOLDER / "resources.json").read_text(encoding="utf-8"))


def check(rows: dict[str, Any], op: str) -> None:
    matrix = next(cases(op)).declared("MATRIX")
    assert rows
    for key, found in rows.items():
        assert key in table(), f"{key}: run python tests/aot/compile.py --op {op} --write"
        allowed = table()[key]
        assert found["stack"] == 0, f"{key} spills registers"
        assert found["registers"] <= min(allowed["registers"], REGISTERS), key
        assert found["shared"] <= min(allowed["shared"], SHARED_MEMORY[key.split("/")[1]]), key
        assert found["mma"] == allowed["mma"], key
        if key.split("/")[-1].rstrip("'") in matrix and "/float32/" not in key:
            assert found["mma"], f"{key} has no matrix instructions"


@pytest.mark.parametrize("op", operations())
def test_kernels_compile_within_their_resources(op: str) -> None:
    dtypes = {case.dtype for case in cases(op)}
    check(compiled(op, "sm_90", ["bfloat16" if torch.bfloat16 in dtypes else "float32"]), op)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("op", operations())
def test_kernels_compile_within_their_resources_everywhere(op: str, arch: str) -> None:
    check(compiled(op, arch, ["float32", "float16", "bfloat16"]), op)


def test_the_table_has_a_row_for_every_kernel_and_no_other() -> None:
    known = {str(case) for op in operations() for case in cases(op)}
    assert {key.rsplit("/", 1)[0] for key in table()} == known


@pytest.mark.parametrize("op", operations())
def test_launches_differ_in_the_grid_alone_for_any_number_of_tokens(op: str) -> None:
    kernels = InterpretedFunction if jit.interpreted() else JITFunction
    for case in cases(op):
        optional = case.declared("SCHEDULING")
        few, *others = [
            [fixed(launch, case) for launch in recorded(case, rows, kernels) if launch["kernel"] not in optional]
            for rows in ROWS
        ]
        assert few
        for launches in others:
            assert launches == few, str(case)


def fixed(launch: dict[str, Any], case: Case) -> dict[str, Any]:
    """What must not depend on the batch: the kernel, its numbers, constants and options."""
    free = {"grid", *case.declared("COUNTS"), *case.declared("SCHEDULING")}
    return {name: value for name, value in launch.items() if name not in free and not isinstance(value, torch.Tensor)}
