"""Candidates for `linear`: their bits are those of the engine's kernel, whatever the number of rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from benchmarks.device.candidates import Candidate, candidates, decode_step
from seamless_kernels.linear import IMPLS
from support.packed import DEVICE, normal
from support.snippets import ROOT

SHARED_MEMORY = 232_448  # bytes of a program on sm_90 at most
BY_DESCRIPTORS = ("persistent", "warp-specialized")

# Of the candidates, those that run here: on the CPU the ones whose Triton kernels the interpreter runs.
PRODUCTS = [found for found in candidates() if found.op == "linear" and not found.available(DEVICE)]
EPILOGUES: list[dict[str, Any]] = [
    {},
    {"activation": "relu", "out_dtype": torch.float32},
    {"activation": "silu", "residual": True, "scale": 0.5},
    {"activation": "glu"},
    {"activation": "glu", "residual": True, "scale": 0.5},
]
# outer, inner: all within a tile; some of a tile left over in either; more than a chunk
DIMS = [(64, 64), (144, 72), (80, 304)]
ROWS = (1, 33, 130)


@pytest.mark.usefixtures("products_in_order")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("epilogue", EPILOGUES, ids=str)
@pytest.mark.parametrize("outer,inner", DIMS)
@pytest.mark.parametrize("candidate", PRODUCTS, ids=lambda candidate: candidate.name)
def test_candidates_for_linear_have_the_bits_of_the_kernel_for_any_rows(
    candidate: Candidate, outer: int, inner: int, epilogue: dict[str, Any], dtype: torch.dtype
) -> None:
    x, weight = normal(max(ROWS), inner, dtype=dtype), normal(outer, inner, dtype=dtype, seed=1) / inner**0.5
    bias, options = normal(outer, dtype=dtype, seed=2), dict(epilogue)
    width = outer // 2 if options.get("activation") == "glu" else outer
    residual = normal(max(ROWS), width, dtype=dtype, seed=3) if options.pop("residual", False) else None
    expected = IMPLS["triton"](x, weight, bias, residual=residual, **options)
    for count in ROWS:
        for rows in (slice(0, count), slice(max(ROWS) - count, None)):
            own = None if residual is None else residual[rows]
            out = candidate.run(x[rows], weight, bias, residual=own, **options)
            assert out.dtype == expected.dtype
            assert torch.equal(out, expected[rows]), (count, rows)


def test_candidates_for_linear_compile_within_the_resources_of_sm_90() -> None:
    """In 16 bit each has matrix instructions of a group of warps, tiles that are copied by descriptors, no spills."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join((str(ROOT / "tests"), str(ROOT), environment.get("PYTHONPATH", "")))
    command = [sys.executable, str(ROOT / "tests" / "candidates" / "compile.py"), *BY_DESCRIPTORS]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {name.split("/")[0] for name in rows} == set(BY_DESCRIPTORS)
    for name, found in rows.items():
        assert found["mma"] == "wgmma" and found["tma"] > 0, name
        assert found["stack"] == 0, f"{name} spills registers"
        assert found["registers"] <= 255 and found["shared"] <= SHARED_MEMORY, name


@pytest.mark.usefixtures("products_in_order")
def test_prove_of_the_decode_step_finds_the_bits_of_separate_launches() -> None:
    assert decode_step.prove(DEVICE, quick=True)
