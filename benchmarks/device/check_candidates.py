"""The proofs of the candidates that this device can run."""

from __future__ import annotations

import torch

from benchmarks.device.candidates import candidates
from benchmarks.device.parts import Context


def prove(context: Context) -> str:
    """Every candidate is tried, and then those whose proof failed are named in an AssertionError."""
    device, found = torch.device(context.device), {}
    for candidate in candidates():
        name = f"{candidate.op} by {candidate.name}"
        try:
            found[name] = candidate.available(device) or candidate.prove(device, context.quick)
        except Exception as error:
            found[name] = f"FAILED: {type(error).__name__}: {error}"
        print(f"{name}: {found[name]}", flush=True)
        context.save(candidates=found)
    failed = [name for name, said in found.items() if said.startswith("FAILED")]
    assert not failed, ", ".join(failed)
    return f"{len(found)} candidates"
