"""What a run is on, and whether the prepared folder fits it."""

from __future__ import annotations

import json
import os

import torch

import benchmarks.report
from benchmarks.device import prepare
from benchmarks.device.parts import Context
from seamless_kernels import native


def describe(context: Context) -> str:
    """Raises AssertionError if csrc was not built for the device, or if `setup.sh` has unpacked a folder that was
    prepared for other versions."""
    context.save(machine=benchmarks.report.machine(context.device))
    if context.device == "cuda":
        assert torch.cuda.is_available(), f"torch {torch.__version__} sees no GPU"
    assert native.csrc is not None, "csrc was not built for the CPU"
    assert context.device == "cpu" or native.csrc_cuda is not None, "csrc was not built for the GPU"
    if os.environ.get("TRITON_CACHE_DIR") != str(prepare.CACHE):
        return "without a prepared folder"
    made = json.loads((prepare.FOLDER / "prepared.json").read_text(encoding="utf-8"))
    wrong = [
        f"{name} {now}, prepared was {made[name]}" for name, now in prepare.versions().items() if now != made[name]
    ]
    if made["csrc"] != prepare.csrc_digest():
        wrong.append("csrc/ has changed since the libraries were built")
    assert not wrong, "; ".join(wrong)
    return f"prepared at {made['commit']}"
