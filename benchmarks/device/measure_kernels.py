"""Times of operations, with the candidates for them. Their tests and proofs are parts of `check`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from benchmarks import roofline
from benchmarks.device.parts import Context
from benchmarks.kernels import runner
from benchmarks.kernels.case import Setup
from benchmarks.kernels.registry import CASES

_FIRST = ("linear", "linear_top_candidates", "rel_attention", "paged_attention", "conformer_conv", "residual_block")


def run(context: Context, only: Sequence[str] = (), compiled: bool = False) -> str:
    """What says most first. An operation that fails is named in an AssertionError at the end; it keeps the rows of its
    cases until then. compiled: as of `Setup`."""
    device, gpu = torch.device(context.device), context.device == "cuda"
    dtype = torch.bfloat16 if gpu else torch.float32
    ceilings, setup = roofline.measure(device, dtype), Setup(device, dtype, context.quick, compiled)
    rows: list[dict[str, Any]] = []
    failed: list[str] = []
    ops = only or sorted(CASES, key=lambda op: _FIRST.index(op) if op in _FIRST else len(_FIRST))
    for op in ops[:2] if context.quick else ops:
        try:
            for row in runner.run(op, CASES[op](setup), device, ceilings):
                rows.append(row)
                context.save(kernels=rows)
        except (Exception, SystemExit) as error:
            failed.append(f"{op}: {error}")
            context.save(failed=failed)
        if mine := [row for row in rows if row["op"] == op]:
            runner.show(mine)
    assert not failed, "; ".join(failed)
    return f"{len(rows)} times of {len({row['op'] for row in rows})} operations"
