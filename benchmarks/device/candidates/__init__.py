"""Candidates: implementations that may replace one of an operation, when a card has shown that they are faster.

A candidate is a module of this folder, with one name `CANDIDATE`, a `Candidate`. The module imports on any machine.
`check` runs the proof of each available candidate; `measure` times it beside ours in the benchmark of its operation;
`prepare` runs it on tensors of device "meta", to compile its Triton kernels. The engine imports no candidate.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Candidate:
    """One implementation.

    name: the column of its times.
    op: an operation of `benchmarks.kernels.registry`.
    available: "" if `run` takes tensors of this device, else the reason why not. Device "meta" stands for sm_90 while
        kernels are compiled without a card: a candidate that launches Triton kernels alone is available there.
    run: called as the public function `seamless_kernels.<op>.<op>`, with weights as they are in a checkpoint. Raises
        NotImplementedError for arguments that it does not take.
    prove: shows on a device that `run` is right and batch-invariant, with few shapes if `quick` is true; returns what
        was shown in some words, raises AssertionError. `proofs.prove_linear` is the proof for `linear`.
    """

    name: str
    op: str
    available: Callable[[torch.device], str]
    run: Callable[..., Any]
    prove: Callable[[torch.device, bool], str]


@functools.cache
def candidates() -> tuple[Candidate, ...]:
    """Of every module in this folder that has one."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    modules = [importlib.import_module(f"{__name__}.{name}") for name in sorted(names)]
    return tuple(module.CANDIDATE for module in modules if hasattr(module, "CANDIDATE"))


def available(op: str, device: torch.device) -> list[Candidate]:
    """The candidates for an operation that this device can run."""
    return [candidate for candidate in candidates() if candidate.op == op and not candidate.available(device)]
