"""Candidates for `linear` in Triton: their bits are those of the engine's kernel for any number of rows, and they
compile for sm_90 within its resources."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.device.candidates import balanced, candidates, decode_step, persistent
from benchmarks.device.candidates.decode_proof import prove_decode_step
from benchmarks.kernels.case import Setup
from benchmarks.kernels.products import linear_cases
from benchmarks.kernels.runner import check_agreement
from seamless_kernels.linear import IMPLS
from support.packed import DEVICE, normal
from support.snippets import ROOT

SHARED_MEMORY = 232_448  # bytes of a program on sm_90 at most
REGISTERS = 255  # of a thread at most
BY_DESCRIPTORS = ("balanced", "persistent", "warp-specialized")
CANDIDATES = {candidate.name: candidate for candidate in candidates()}
EPILOGUES: list[dict[str, Any]] = [
    {},
    {"activation": "relu", "out_dtype": torch.float32},
    {"activation": "silu", "residual": True, "scale": 0.5},
    {"activation": "glu"},
    {"activation": "glu", "residual": True, "scale": 0.5},
]
# outer, inner: tiles that reach over the edge, and more than a chunk
DIMS = [(144, 72), (80, 304)]
ROWS = (1, 33, 130)


@pytest.mark.usefixtures("products_in_order")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("epilogue", EPILOGUES, ids=str)
@pytest.mark.parametrize("outer,inner", DIMS)
@pytest.mark.parametrize("name", BY_DESCRIPTORS)
def test_candidates_for_linear_have_the_bits_of_the_kernel_for_any_rows(
    name: str, outer: int, inner: int, epilogue: dict[str, Any], dtype: torch.dtype
) -> None:
    x, weight = normal(max(ROWS), inner, dtype=dtype), normal(outer, inner, dtype=dtype, seed=1) / inner**0.5
    bias, options = normal(outer, dtype=dtype, seed=2), dict(epilogue)
    width = outer // 2 if options.get("activation") == "glu" else outer
    residual = normal(max(ROWS), width, dtype=dtype, seed=3) if options.pop("residual", False) else None
    expected = IMPLS["triton"](x, weight, bias, residual=residual, **options)
    for count in ROWS:
        for rows in (slice(0, count), slice(max(ROWS) - count, None)):
            own = None if residual is None else residual[rows]
            out = CANDIDATES[name].run(x[rows], weight, bias, residual=own, **options)
            assert out.dtype == expected.dtype
            assert torch.equal(out, expected[rows]), (count, rows)


@pytest.mark.usefixtures("products_in_order")
def test_prove_of_the_decode_step_finds_the_bits_of_separate_launches() -> None:
    assert decode_step.prove(DEVICE, quick=True)


def test_prove_of_the_decode_step_refuses_other_bits() -> None:
    def rounded(**call: Any) -> torch.Tensor:
        return decode_step.run(**call) * (1.0 if len(call["x"]) > 5 else 1.01)

    with pytest.raises(AssertionError, match="in torch.bfloat16: 1 rows"):
        prove_decode_step(rounded, DEVICE, quick=True)


def test_linear_cases_compare_a_decoder_layer_with_the_candidates_that_fuse() -> None:
    *_, case = linear_cases(Setup(DEVICE, torch.bfloat16, quick=True))
    assert case.name == "decoder layer, 5 queries" and list(case.implementations) == ["ours", "decode step"]
    arguments = case.inputs()
    ours, fused = (run(*arguments) for run in case.implementations.values())
    assert len(ours) == 6
    check_agreement(ours, fused, case.name)


def test_rows_of_full_waves_leave_the_rest_to_the_smaller_tile() -> None:
    large, small = {"BLOCK_M": 128, "BLOCK_N": 256}, {"BLOCK_M": 128, "BLOCK_N": 128}
    assert balanced.rows_of_full_waves(1280, 8192, 132, large, small) == 1024
    assert balanced.rows_of_full_waves(1280, 3072, 132, large, small) == 0  # one wave
    assert balanced.rows_of_full_waves(4224, 1024, 132, large, small) == 0  # one full wave


def test_the_balanced_candidate_computes_its_last_rows_with_the_smaller_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    launched = []

    def recorded(y: torch.Tensor, *arguments: Any) -> None:
        launched.append((len(y), arguments[-1]["BLOCK_M"]))
        persistent.launch(y, *arguments)

    monkeypatch.setattr(balanced, "launch", recorded)
    balanced.run(normal(130, 72, dtype=torch.bfloat16), normal(144, 72, dtype=torch.bfloat16))
    assert launched == [(128, 64), (2, 32)]


def compiled(*names: str) -> dict[str, Any]:
    """Rows of `compile.py`, in a process of its own: here kernels are interpreted."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join((str(ROOT / "tests"), str(ROOT), environment.get("PYTHONPATH", "")))
    command = [sys.executable, str(Path(__file__).with_name("compile.py")), *names]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {name.split("/")[0] for name in rows} == set(names)
    for name, found in rows.items():
        assert found["stack"] == 0, f"{name} spills registers"
        assert found["registers"] <= REGISTERS and found["shared"] <= SHARED_MEMORY, name
    return rows


@pytest.mark.parametrize("name", BY_DESCRIPTORS)
def test_candidates_by_descriptors_copy_tiles_by_tma_and_multiply_by_groups_of_warps(name: str) -> None:
    products = {key: found for key, found in compiled(name).items() if "/sum_kernel/" not in key}
    assert {key.split("/")[2] for key in products} == {"_kernel", *(["_chunks_kernel"] if name == "balanced" else [])}
    for key, found in products.items():
        assert found["mma"] == "wgmma" and found["tma"] > 0, key


def test_the_decode_step_depends_on_the_kernel_before_and_sums_in_the_layout_of_layer_norm() -> None:
    rows = compiled("decode step", "ours")
    norms = {str(found["sums"]) for found in rows.values() if found["sums"]}
    assert norms == {"[[8, 32, 4], [8, 32, 4]]"}
    own = {key: found for key, found in rows.items() if key.startswith("decode step/")}
    for key, found in own.items():
        assert found["dependent"], key
        assert found["mma"] == (None if "/sum_kernel/" in key else "wgmma"), key
    assert sum(bool(found["sums"]) for found in own.values()) == 3
