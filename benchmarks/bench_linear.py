"""linear at the model's products, from the rows of one request's decode step to those of a full encoder pass.

Operations: 2 · rows · out · in. Least bytes: x, the weight and the residual read, y written. While rows are few the
weight is nearly all of them, and the share of the copy's bandwidth is what counts; where they are many, TFLOP/s. The
product in 8 bits is measured by the numbers of 16: its share can exceed 100 %.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from benchmarks.kernel_bench import Case, main
from seamless_kernels.linear import Activation, linear, pack_weight, pack_weight_int8


class Product(NamedTuple):
    """A product of the model with its epilogue, and the rows that it sees."""

    name: str
    outer: int
    inner: int
    rows: tuple[int, ...]
    activation: Activation | None = None
    residual: bool = False
    scale: float = 1.0
    wide: bool = False  # float32 out, and no bias


STEP = (5, 40, 320, 1280)
PASS = (500, 16_000)
PRODUCTS = (
    Product("decoder q·k·v", 3072, 1024, STEP),
    Product("decoder out", 1024, 1024, STEP, residual=True),
    Product("decoder fc1", 8192, 1024, STEP, activation="relu"),
    Product("decoder fc2", 1024, 8192, STEP, residual=True),
    Product("head", 256_102, 1024, STEP, wide=True),
    Product("text encoder fc2", 1024, 8192, (36, 16_000), residual=True),
    Product("Conformer fc1", 4096, 1024, PASS, activation="silu"),
    Product("Conformer fc2", 1024, 4096, PASS, residual=True, scale=0.5),
    Product("Conformer GLU", 2048, 1024, PASS, activation="glu"),
)
# Not BLOCK_M: the kind of the matrix instruction hangs on it.
TUNE = {
    "PROGRAMS": (64, 96, 132, 192, 264),
    "TILES": {1: (16, 32, 64, 128, 256), 2: (32, 64, 128, 256), 3: (4, 8), 4: (2, 3, 4, 5, 6)},
}
QUICK = (Product("decoder out", 1024, 1024, (5, 40), residual=True), Product("GLU", 2048, 1024, (40,), "glu"))


def cases(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[Case]:
    for product in QUICK if quick else PRODUCTS:
        for rows in product.rows:
            yield case(product, rows, device, dtype)


def case(product: Product, rows: int, device: torch.device, dtype: torch.dtype) -> Case:
    outer, inner = product.outer, product.inner
    width = outer // 2 if product.activation == "glu" else outer
    out_dtype = torch.float32 if product.wide else dtype

    def inputs() -> tuple[Any, ...]:
        x, weight = torch.randn(rows, inner, device=device), torch.randn(outer, inner, device=device) / inner**0.5
        residual = torch.randn(rows, width, device=device).to(dtype) if product.residual else None
        weight, bias = weight.to(dtype), torch.randn(outer, device=device).to(dtype)
        matrices = weight, pack_weight(weight), pack_weight_int8(weight)
        return x.to(dtype), matrices, None if product.wide else bias, residual

    def ours(x: torch.Tensor, matrices: Any, bias: Any, residual: Any, kind: int = 1) -> torch.Tensor:
        options: dict[str, Any] = {"activation": product.activation, "residual": residual, "scale": product.scale}
        return linear(x, matrices[kind], bias, out_dtype=out_dtype, **options)

    def library(x: torch.Tensor, matrices: Any, bias: Any, residual: Any) -> torch.Tensor:
        weight = matrices[0]
        if out_dtype != dtype and device.type == "cuda":
            return torch.mm(x, weight.T, out_dtype=out_dtype)
        y = F.linear(x, weight, bias).to(out_dtype)
        match product.activation:
            case "relu":
                y = y.relu()
            case "silu":
                y = F.silu(y)
            case "glu":
                y = F.glu(y, dim=-1)
        y = y * product.scale if product.scale != 1.0 else y
        return y if residual is None else residual + y

    providers: dict[str, Any] = {"ours": ours, "ours int8": functools.partial(ours, kind=2)}
    providers["cuBLAS" if device.type == "cuda" else "torch"] = library
    if device.type == "cuda" and (product.activation or product.residual):  # else it is cuBLAS again
        providers["torch.compile"] = torch.compile(library, dynamic=False)
    written = rows * width * out_dtype.itemsize
    return Case(
        f"{product.name} {outer}×{inner}, {rows} rows",
        inputs,
        providers,
        operations=2.0 * rows * outer * inner,
        least_bytes=float((rows * (inner + width * product.residual) + outer * inner) * dtype.itemsize + written),
    )


if __name__ == "__main__":
    main("linear", cases)
