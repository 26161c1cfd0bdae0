"""Facts for `seamless-engine env`: versions, devices and the implementations in use. Needs no model."""

from __future__ import annotations

import importlib
import os
import pkgutil
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import seamless_kernels
from seamless_engine.search.native_search import available
from seamless_kernels import dispatch, native

PACKAGES = (  # required and optional dependencies, and transformers
    "torch",
    "triton",
    "numpy",
    "safetensors",
    "sentencepiece",
    "tokenizers",
    "soundfile",
    "soxr",
    "av",
    "huggingface_hub",
    "sentencex",
    "silero-vad",
    "pyarrow",
    "transformers",
)

_INSTRUCTION_SETS = (
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512dq",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
)


def describe() -> dict[str, str]:
    """Facts for a bug report, in the order to print them."""
    facts = {"seamless-engine": package_version("seamless-engine"), "python": platform.python_version()}
    facts |= {name: package_version(name) for name in PACKAGES}
    facts["platform"] = platform.platform()
    facts["cpu"] = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {cpu_name()}"
    facts["cpu instructions"] = " ".join(instruction_sets()) or "not known here"
    facts["torch on the cpu"] = torch.backends.cpu.get_cpu_capability()
    facts |= _devices()
    facts["SEAMLESS_BACKEND"] = dispatch.forced() or "not set"
    facts |= _extensions()
    facts |= _backends()
    return facts


def cpu_name() -> str:
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def instruction_sets() -> list[str]:
    """The instruction sets of this processor that decide the order of additions in a product; empty if unknown."""
    flags = set(_cpuinfo().get("flags", "").split())
    return [name for name in _INSTRUCTION_SETS if name in flags]


def _cpuinfo() -> dict[str, str]:
    """The entries of the first processor; empty on systems other than Linux."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def package_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _devices() -> dict[str, str]:
    if not torch.cuda.is_available():
        return {"cuda": f"no device (torch built for {torch.version.cuda or 'cpu only'})"}
    facts = {"cuda": str(torch.version.cuda)}
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        facts[f"cuda:{index}"] = (
            f"{device.name}, sm_{device.major}{device.minor}, {device.total_memory / 2**30:.0f} GiB"
        )
    return facts


def _extensions() -> dict[str, str]:
    """The extensions compiled from csrc/, and the processors that they are for."""
    facts: dict[str, str] = dict.fromkeys(("csrc", "csrc_cuda"), "not built: torch does its work")
    if native.csrc:
        sets = ", ".join(native.csrc.instruction_sets())
        facts["csrc"] = f"{native.csrc.instruction_set()} (of {sets}), {torch.get_num_threads()} threads"
    if native.csrc_cuda:
        facts["csrc_cuda"] = native.csrc_cuda.targets
    return facts


def _backends() -> dict[str, str]:
    """Operation → the implementation in use on the device of `device="auto"`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    facts = {}
    for module in pkgutil.iter_modules(seamless_kernels.__path__):
        impls = getattr(importlib.import_module(f"seamless_kernels.{module.name}"), "IMPLS", None)
        if impls:
            try:
                used = dispatch.backend_for(device, impls)
            except ValueError as error:
                used = f"none: {error}"
            facts[f"op {module.name}"] = f"{used} (of {', '.join(impls)})"
    return facts | {"search": f"{'native' if available(device) else 'torch'} (of torch, native)"}
