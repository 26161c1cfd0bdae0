"""Compile the kernels of candidates for sm_90, on any machine, and print their resources.

    PYTHONPATH=tests:. python tests/candidates/compile.py NAME ...

Prints one JSON object: {"name/launch/kernel": {registers, stack, shared, mma, tma, dependent, sums}}.

    tma        copies by descriptors
    dependent  whether the kernel waits for the one before
    sums       for each reduction how many of its numbers a thread has in turn, threads of a warp, and warps

The name "ours" has the launches that "decode step" replaces. In a process of its own, as `aot/compile.py`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch

from aot.compile import compiled, resources  # first: it sees to it that Triton compiles
from benchmarks.device.candidates import Candidate, candidates
from benchmarks.device.candidates.decode_proof import MOST_ROWS, decoder_calls, separate
from benchmarks.kernels.products import PRODUCTS, Product
from seamless_kernels import config

DTYPE, META = torch.bfloat16, torch.device("meta")


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


def products(candidate: Candidate) -> Iterator[Launch]:
    """The products of the model that the candidate takes."""
    for product in PRODUCTS:

        def call(rows: int, product: Product = product) -> None:
            width = product.outer // 2 if product.activation == "glu" else product.outer
            x, weight = (torch.empty(n, product.inner, dtype=DTYPE, device="meta") for n in (rows, product.outer))
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


def decoder_products(name: str, run: Callable[..., Any]) -> Iterator[Launch]:
    """The products of a decoder layer with what stands around them."""
    for number, (product, _) in enumerate(decoder_calls(META, DTYPE, 1, quick=False)):

        def call(rows: int, number: int = number) -> None:
            calls = list(decoder_calls(META, DTYPE, min(rows, MOST_ROWS), quick=False))
            run(**calls[number][1])

        yield Launch(f"{name}/{product}", call)


def sums(ttgir: str) -> list[list[int]]:
    """For each reduction, what a thread, a warp and a program have of its axis."""
    layouts = dict(re.findall(r"^(#blocked\d*) = #ttg.blocked<(.*)>$", ttgir, re.MULTILINE))
    found = []
    for reduction in ttgir.split('"tt.reduce"')[1:]:
        axis = int(re.search(r"axis = (\d)", reduction)[1])  # pyright: ignore[reportOptionalSubscript]
        layout = layouts[re.search(r"\}\) : \(tensor<[^,]*, (#blocked\d*)>", reduction)[1]]  # pyright: ignore
        found.append([json.loads(numbers)[axis] for numbers in re.findall(r"= (\[[\d, ]*\])", layout)[:3]])
    return found


def main(names: list[str]) -> None:
    found = {candidate.name: candidate for candidate in candidates()}
    rows: dict[str, dict[str, Any]] = {}
    for name in names:
        if name == "ours":
            launches = decoder_products(name, separate)
        elif name == "decode step":
            launches = decoder_products(name, found[name].run)
        else:
            launches = products(found[name])
        for launch in launches:
            case: Any = launch
            for number, (kernel_name, kernel) in enumerate(compiled(case)):
                ptx = kernel.asm["ptx"]
                rows[f"{launch.name}/{kernel_name}/{number}"] = {
                    **resources(kernel),
                    "tma": ptx.count("cp.async.bulk.tensor"),
                    "dependent": "griddepcontrol.wait" in ptx,
                    "sums": sums(kernel.asm["ttgir"]),
                }
    print(json.dumps(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
