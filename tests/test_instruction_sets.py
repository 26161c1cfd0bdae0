"""Batch invariance with every instruction set of the libraries under torch, in child processes with a time limit.

The instruction set of csrc/ is chosen within a process, by the fixture `instruction_set`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from seamless_engine.environment import instruction_sets

ROOT = Path(__file__).parents[1]
# The limit of oneDNN, the flag that a processor needs for it, and what oneDNN then reports. oneDNN ignores unknown
# names.
LIMITS = [
    ("AVX2", "avx2", r"Intel AVX2"),
    ("AVX512_CORE", "avx512bw", r"Intel AVX-512 with AVX512BW"),
    ("AVX512_CORE_BF16", "avx512_bf16", r"Intel AVX-512 with Intel DL Boost and bfloat16"),
    ("AVX512_CORE_FP16", "avx512_fp16", r"^(?!.*AMX).*(float16|AVX ?10)"),
    ("AVX512_CORE_AMX", "amx_bf16", r"AMX"),
]
# The same limit under the names of MKL and of torch's own code.
OTHERS = {"AVX2": ("AVX2", "avx2"), "AVX512_CORE": ("AVX512", "avx512")}
TESTS = (
    "tests/ops/test_linear.py::test_linear_is_batch_invariant",
    "tests/ops/test_linear.py::test_linear_is_close_to_float64",
    "tests/ops/test_int8.py",
    "tests/ops/test_conv1d.py",
    "tests/ops/test_conv_transpose1d.py",
    "tests/ops/test_conformer_conv.py",
    "tests/test_invariance.py::test_generate_is_batch_invariant",
)
CHILD = """
import sys, torch
with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
    torch.ops.mkldnn._reorder_linear_weight(torch.randn(64, 64), 16)
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""
LIMIT_S = 600  # about ten times what a child takes


def run(environment: dict[str, str]) -> str:
    """Run the tests in a process with these variables: they pass. Returns what they print."""
    arguments = [*TESTS, "-q", "-x", "-k", "not triton", "-p", "no:cacheprovider"]
    child = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert child.returncode == 0, child.stdout[-4000:] + child.stderr[-2000:]
    return child.stdout


@pytest.mark.parametrize(
    "limit,reported", [(limit, report) for limit, flag, report in LIMITS if flag in instruction_sets()]
)
def test_operations_are_batch_invariant_with_every_instruction_set_of_onednn(limit: str, reported: str) -> None:
    mkl, torch_s = OTHERS.get(limit, ("", ""))
    variables = {"ONEDNN_MAX_CPU_ISA": limit, "MKL_ENABLE_INSTRUCTIONS": mkl, "ATEN_CPU_CAPABILITY": torch_s}
    printed = run({name: value for name, value in variables.items() if value})
    report = re.search(r"info,cpu,isa:(.*)", printed)
    assert report and re.search(reported, report[1]), f"oneDNN was to be limited to {limit}, and reports {report}"


def test_operations_are_batch_invariant_with_the_oldest_instructions_of_mkl() -> None:
    run({"MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"})
