"""linear: right in every dtype and epilogue, and a row's bits do not depend on how many rows there are."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from seamless_kernels.linear import IMPLS, linear, pack_weight
from support.packed import DTYPES, normal
from tolerance import assert_close_to_fp64

SHAPES = [(1, 7, 13), (5, 16, 32), (17, 160, 64), (63, 512, 96), (130, 2048, 80), (33, 64, 1), (16, 1000, 3)]
EPILOGUES: list[dict[str, Any]] = [
    {},
    {"activation": "relu"},
    {"activation": "silu"},
    {"activation": "glu"},
    {"scale": 0.5},
]


def exact(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    residual: torch.Tensor | None,
    epilogue: dict[str, Any],
    dtype: torch.dtype,
    onednn: bool = False,
) -> torch.Tensor:
    """The formula in `dtype`, by either of the two products that torch has on a CPU: oneDNN's sums are less exact."""
    operands = [tensor.to(dtype) for tensor in (x, weight, bias)]
    if onednn:
        y = torch.nn.functional.linear(*(tensor.to_mkldnn() for tensor in operands)).to_dense()
    else:
        y = torch.nn.functional.linear(*operands)
    match epilogue.get("activation"):
        case "relu":
            y = y.relu()
        case "silu":
            y = torch.nn.functional.silu(y)
        case "glu":
            y = torch.nn.functional.glu(y, dim=-1)
    y = y * epilogue.get("scale", 1.0)
    return y if residual is None else residual.to(dtype) + y


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("epilogue", EPILOGUES, ids=str)
@pytest.mark.parametrize("rows,inner,outer", SHAPES)
def test_error_is_at_most_twice_torch(
    rows: int, inner: int, outer: int, epilogue: dict[str, Any], dtype: torch.dtype
) -> None:
    if epilogue.get("activation") == "glu":
        outer *= 2
    x = normal(rows, inner, dtype=dtype)
    weight, bias = normal(outer, inner, dtype=dtype, seed=1) / inner**0.5, normal(outer, dtype=dtype, seed=2)
    width = outer // 2 if epilogue.get("activation") == "glu" else outer
    for residual in (None, normal(rows, width, dtype=dtype, seed=3)):
        truth = exact(x, weight, bias, residual, epilogue, torch.float64)
        plain = IMPLS["torch"](x, weight, bias, residual=residual, **epilogue)
        assert_close_to_fp64(plain, exact(x, weight, bias, residual, epilogue, dtype), truth)
        packed = linear(x, pack_weight(weight), bias, residual=residual, **epilogue)
        own = exact(x, weight, bias, residual, epilogue, dtype, onednn=pack_weight(weight).is_mkldnn)
        assert_close_to_fp64(packed, own, truth)


@pytest.mark.parametrize("implementation", ["packed", "torch"])
@pytest.mark.parametrize("activation", [None, "silu", "glu"])
@pytest.mark.parametrize("inner,outer", [(512, 1024), (2048, 512), (8192, 256), (7, 13), (64, 6), (352, 32), (1280, 2)])
def test_a_row_does_not_feel_the_others(inner: int, outer: int, activation: Any, implementation: str) -> None:
    if activation == "glu" and outer % 2:
        outer += 1
    rng = random.Random(inner)
    x, weight, bias = normal(300, inner), normal(outer, inner, seed=1) / inner**0.5, normal(outer, seed=2)
    if implementation == "packed":
        weight = pack_weight(weight)

    def run(rows: torch.Tensor) -> torch.Tensor:
        call = linear if implementation == "packed" else IMPLS["torch"]
        return call(rows, weight, bias, activation=activation)

    alone = torch.cat([run(x[i : i + 1]) for i in range(40)])
    for trial in range(24):
        count = trial + 1 if trial < 18 else rng.randint(20, 300)
        chosen = torch.randperm(300, generator=torch.Generator().manual_seed(trial))[:count]
        known = chosen < 40
        assert torch.equal(run(x[chosen])[known], alone[chosen[known]]), count
