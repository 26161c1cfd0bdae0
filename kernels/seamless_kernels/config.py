"""How a kernel is launched: tile sizes, warps and stages from the table configs.json, never from the number of tokens.

    {operation: {architecture: {dims, as "1024x64": {dtype, or "*" for any: {"BLOCK_M": 64, "num_warps": 4, …}}}}}

Architectures are "sm_80", "sm_90", "sm_100" and "interpreter" (Triton on the CPU). The sizes of a
reduction's chunks are arithmetic: the bits of a result depend on them. The file of an operation says what its dims are.
"""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

import torch

TABLE = Path(__file__).with_name("configs.json")


def config_for(op: str, dims: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Keyword arguments of a launch: the table's entry, or that of the nearest dims, and `enable_fp_fusion`.

    Nearest: the least sum of |log2(dim / entry's dim)|, the smaller entry on a tie. A GPU that the table does not have
    takes the newest architecture before its own. Compute capability 12 takes sm_80: it has the same instructions and,
    like sm_86 and sm_89, 99 KB of shared memory for a program. Raises KeyError if the table has no such operation.
    """
    return dict(lookup(op, dims, dtype, architecture(device)))


def architecture(device: torch.device) -> str:
    """ "sm_90" and the like, "interpreter" for the CPU."""
    if device.type == "cpu":
        return "interpreter"
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


@functools.cache
def num_sms(device: torch.device, interpreted: int) -> int:
    """Streaming multiprocessors of a GPU; `interpreted` for Triton on the CPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else interpreted


@functools.cache
def table() -> dict[str, Any]:
    return json.loads(TABLE.read_text(encoding="utf-8"))


@functools.cache
def lookup(op: str, dims: tuple[int, ...], dtype: torch.dtype, arch: str) -> dict[str, Any]:
    by_arch = table()[op]
    by_dims = {parse_dims(key): entries for key, entries in by_arch[_not_newer(arch, by_arch)].items()}
    nearest = min(sorted(by_dims), key=lambda entry: _distance(entry, dims))
    entries = by_dims[nearest]
    name = str(dtype).removeprefix("torch.")
    # Always explicit: it decides whether a · b + c is rounded once, and Triton's default differs between versions.
    return {**entries.get(name, entries.get("*")), "enable_fp_fusion": True}


def parse_dims(key: str) -> tuple[int, ...]:
    return tuple(int(number) for number in key.split("x"))


def _not_newer(arch: str, known: dict[str, Any]) -> str:
    if arch in known:
        return arch
    number = int(arch.removeprefix("sm_"))
    if number // 10 == 12:
        number = 80
    older = [name for name in known if name.startswith("sm_") and int(name.removeprefix("sm_")) <= number]
    if not older:
        raise ValueError(f"kernels need a GPU of compute capability 8.0 or newer, this one is {arch}: use device='cpu'")
    return max(older, key=lambda name: int(name.removeprefix("sm_")))


def _distance(entry: tuple[int, ...], dims: tuple[int, ...]) -> float:
    return sum(abs(math.log2(a / b)) for a, b in zip(entry, dims, strict=True))
