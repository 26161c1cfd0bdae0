"""The extensions of csrc/: code for every GPU, sources without a warning; torch does the work of what is not built."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from seamless_kernels import native

ROOT = Path(__file__).parents[1]
CUDA_SOURCES = sorted((ROOT / "csrc").rglob("*.cu"))


def test_backend_for_is_torch_where_the_extension_is_not_built() -> None:
    code = """
import sys
sys.modules["seamless_kernels._csrc"] = None  # as if there were no such file
import torch
from seamless_kernels import conv1d, native, paged_attention, top_candidates
from seamless_kernels.dispatch import backend_for
assert native.csrc is None
for module in (conv1d, paged_attention, top_candidates):
    assert backend_for(torch.device("cpu"), module.IMPLS) == "torch", module
print(top_candidates.top_candidates(torch.tensor([[1.0, 3.0, 2.0]]), 2)[1].tolist())
"""
    environment = {name: value for name, value in os.environ.items() if name != "SEAMLESS_BACKEND"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[[1, 2]]"


if shutil.which("nvcc"):

    def test_the_cuda_extension_has_code_for_every_target() -> None:
        from triton import knobs  # it brings cuobjdump

        assert native.csrc_cuda is not None, "csrc/ is not built for CUDA: `pip install -e .`"
        code = [knobs.nvidia.cuobjdump.path, "--list-elf", "--list-ptx", str(native.csrc_cuda.__file__)]
        listed = subprocess.run(code, capture_output=True, text=True, check=True).stdout
        compiled = {f"sm_{sm}" for sm in re.findall(r"sm_(\d+)\.cubin", listed)}
        for_later_gpus = {f"compute_{sm}" for sm in re.findall(r"sm_(\d+)\.ptx", listed)}
        assert compiled | for_later_gpus == set(native.csrc_cuda.targets.split())
        assert {"sm_80", "sm_86", "sm_89", "sm_90"} <= compiled

    @pytest.mark.parametrize(
        "sm", [80, *(pytest.param(sm, marks=pytest.mark.slow) for sm in (86, 89, 90))], ids="sm_{}".format
    )
    def test_the_cuda_sources_compile_without_a_warning(sm: int, tmp_path: Path) -> None:
        target = f"-gencode=arch=compute_{sm},code=sm_{sm}"
        include = [f"-I{ROOT / folder}" for folder in ("csrc", "build/include")]
        flags = ["-std=c++17", "-O3", "--Werror=all-warnings", *include, target, "-cubin"]
        assert CUDA_SOURCES
        for source in CUDA_SOURCES:
            command = ["nvcc", *flags, str(source), "-o", str(tmp_path / "out.cubin")]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
