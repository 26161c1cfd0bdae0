"""Compile the kernels of candidates for sm_90, on any machine, and print their resources.

    PYTHONPATH=tests:. python tests/candidates/compile.py [NAME ...]

Prints one JSON object: {"name/launch/kernel": {registers, stack, shared, mma, tma}}. tma: copies by descriptors. As
`aot/compile.py`, and in a process of its own for the same reason.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch

from aot.compile import compiled, resources  # first: it sees to it that Triton compiles
from benchmarks.device.candidates import Candidate, candidates
from benchmarks.kernels.products import PRODUCTS
from seamless_kernels import config


@dataclass(frozen=True)
class Launch:
    """One call of a candidate, for any number of rows, with what `compiled` reads of an `aot.launches.Case`."""

    name: str
    call: Callable[[int], Any]
    arch: str = "sm_90"

    def launch(self, rows: int) -> None:
        with mock.patch.object(config, "architecture", lambda _: self.arch):
            self.call(rows)

    def declared(self, _: str) -> bool:
        return True  # the number of rows may choose another kernel


def launches(candidate: Candidate, dtype: torch.dtype = torch.bfloat16) -> Iterator[Launch]:
    """The products of the model that the candidate takes."""
    for product in PRODUCTS:

        def call(rows: int, product: Any = product) -> None:
            width = product.outer // 2 if product.activation == "glu" else product.outer
            x, weight = (torch.empty(n, product.inner, dtype=dtype, device="meta") for n in (rows, product.outer))
            candidate.run(
                x,
                weight,
                None if product.logits else x.new_empty(product.outer),
                activation=product.activation,
                residual=x.new_empty(rows, width) if product.residual else None,
                scale=product.scale,
                out_dtype=torch.float32 if product.logits else None,
            )

        try:
            call(0)
        except NotImplementedError:
            continue
        yield Launch(f"{candidate.name}/{product.name}", call)


def main(names: list[str]) -> None:
    rows: dict[str, dict[str, Any]] = {}
    for candidate in candidates():
        if candidate.op == "linear" and candidate.name in (names or [candidate.name]):
            for launch in launches(candidate):
                case: Any = launch
                for number, (kernel_name, kernel) in enumerate(compiled(case)):
                    tma = kernel.asm["ptx"].count("cp.async.bulk.tensor")
                    rows[f"{launch.name}/{kernel_name}/{number}"] = {**resources(kernel), "tma": tma}
    print(json.dumps(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
