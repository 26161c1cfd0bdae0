"""What a candidate for an operation has to show before its times mean anything."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.kernels.products import PRODUCTS, QUICK, Product
from seamless_kernels.precision import rounding_error

_ROWS = (1, 5, 16, 40, 64, 65, 128, 320, 1280, 2000)  # of a call that must have the bits of one with all rows
_MOST = 4096
_EXACT = 256  # rows that are compared with float64
_EPILOGUE = 8  # roundings after the sum
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def prove_linear(run: Callable[..., Tensor], device: torch.device, quick: bool = False) -> str:
    """`run`, with the arguments of `seamless_kernels.linear.linear` and a plain weight, against two properties.

    Each result is as close to float64 as that of a sum in float32 must be, and its rows have the same bits alone, and
    in any batch. All products of the model in the dtypes that `run` takes. Returns how many were shown and how many
    `run` refused; raises AssertionError, also if it takes none.
    """
    shown = refused = 0
    for product in QUICK if quick else PRODUCTS:
        for dtype in _DTYPES:
            try:
                _prove_product(run, product, dtype, device, 80 if quick else _MOST)
                shown += 1
            except NotImplementedError:
                refused += 1
    assert shown, f"all {refused} products were refused"
    return f"{shown} products, {refused} refused"


def _prove_product(
    run: Callable[..., Tensor], product: Product, dtype: torch.dtype, device: torch.device, rows: int
) -> None:
    width = product.outer // 2 if product.activation == "glu" else product.outer
    made = torch.Generator(device).manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=made, device=device) * scale).to(dtype)

    x, weight = normal(rows, product.inner), normal(product.outer, product.inner, scale=product.inner**-0.5)
    bias = None if product.logits else normal(product.outer)
    residual = normal(rows, width) if product.residual else None
    options: dict[str, Any] = {"activation": product.activation, "scale": product.scale}
    if product.logits:
        options["out_dtype"] = torch.float32

    def part(first: int, count: int) -> Tensor:
        own = slice(first, first + count)
        return run(x[own], weight, bias, residual=None if residual is None else residual[own], **options)

    whole, name = part(0, rows), f"{product.name} in {dtype}"
    few = min(rows, _EXACT)
    exact = _exact(x[:few], weight, bias, None if residual is None else residual[:few], product)
    allowed = rounding_error(exact, whole.dtype, product.inner + _EPILOGUE)
    error = (whole[:few].double() - exact).abs()
    assert bool((error <= allowed).all()), f"{name}: {error.max():.3g} from float64"
    for first, count in _parts(rows):
        assert torch.equal(part(first, count), whole[first : first + count]), (
            f"{name}: rows {first} + {count} of {rows}"
        )


def _parts(rows: int) -> Iterator[tuple[int, int]]:
    """First row and number of rows of the parts that are computed again."""
    rng = random.Random(0)
    for count in (count for count in _ROWS if count < rows):
        yield from {(0, count), (rows - count, count), (rng.randrange(rows - count), count)}


def _exact(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, product: Product) -> Tensor:
    """The formula in float64."""
    activate = {None: lambda y: y, "relu": F.relu, "silu": F.silu, "glu": F.glu}[product.activation]
    y = activate(F.linear(x.double(), weight.double(), None if bias is None else bias.double())) * product.scale
    return y if residual is None else residual.double() + y
