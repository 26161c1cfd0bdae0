"""int8 products: the formula of the quantized operands, with exact sums, and so batch-invariant."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from seamless_kernels import linear_cpu
from seamless_kernels.int8 import IMPLS, LARGEST, Int8Weight, quantize_rows
from seamless_kernels.linear import INT8_IMPLS, linear, pack_weight_int8
from support.epilogue import finished
from support.packed import BACKENDS, DEVICE, DTYPES, WITH_NATIVE, normal
from tolerance import assert_close_to_fp64

SHAPES = [(1, 7, 14), (5, 16, 32), (17, 160, 64), (33, 64, 2), (70, 200, 48), (63, 512, 96), (16, 2100, 40)]
EPILOGUES: list[dict[str, Any]] = [{}, {"activation": "relu"}, {"activation": "silu"}, {"activation": "glu"}]
EPILOGUE = 8  # roundings after the sum, which is exact
# "packed" is what the engine runs.
IMPLEMENTATIONS = ("packed", *BACKENDS)


def implementation(name: str) -> Callable[..., torch.Tensor]:
    """`linear` on plain weights, by one implementation."""
    if name == "packed":
        return lambda x, weight, bias=None, **options: linear(x, pack_weight_int8(weight), bias, **options)
    return lambda x, weight, bias=None, **options: INT8_IMPLS[name](
        x, Int8Weight(*quantize_rows(weight)), bias, **options
    )


def formula(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    residual: torch.Tensor | None,
    activation: str | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The product of what quantisation leaves of the operands, with scale 0.5."""
    own, other = (values.to(dtype) * scale[:, None].to(dtype) for values, scale in map(quantize_rows, (x, weight)))
    y = F.linear(own, other, bias.to(dtype))
    return finished(y, activation, 0.5, residual)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", WITH_NATIVE)
def test_quantize_rows_is_within_half_a_step(name: str, dtype: torch.dtype) -> None:
    x = normal(40, 1500, dtype=dtype) * torch.logspace(-6, 4, 40, device=DEVICE)[:, None].to(dtype)
    x[7] = 0.0
    values, scale = IMPLS[name](x)
    assert (values.dtype, scale.dtype) == (torch.int8, torch.float32)
    error = (x.double() - values.double() * scale[:, None].double()).abs()
    assert (error <= scale[:, None].double() * (0.5 + 1e-4)).all()
    largest = values.abs().amax(1)
    assert (largest == LARGEST).sum() == 39 and largest[7] == 0 and scale[7] == 1.0
    if dtype == torch.float32 and name != "torch":
        assert all(torch.equal(a, b) for a, b in zip((values, scale), IMPLS["torch"](x), strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("epilogue", EPILOGUES, ids=str)
@pytest.mark.parametrize("rows,inner,outer", SHAPES)
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_linear_in_8_bits_is_close_to_float64(
    rows: int, inner: int, outer: int, epilogue: dict[str, Any], dtype: torch.dtype, name: str
) -> None:
    activation = epilogue.get("activation")
    x, weight = normal(rows, inner, dtype=dtype), normal(outer, inner, dtype=dtype, seed=1) / inner**0.5
    bias, width = normal(outer, dtype=dtype, seed=2), outer // 2 if activation == "glu" else outer
    for residual in (None, normal(rows, width, dtype=dtype, seed=3)):
        out = implementation(name)(x, weight, bias, residual=residual, scale=0.5, **epilogue)
        true = formula(x, weight, bias, residual, activation, torch.float64)
        assert_close_to_fp64(out, true, terms=EPILOGUE, dtype=dtype)
    wide = implementation(name)(x, weight, bias, scale=0.5, out_dtype=torch.float32, **epilogue)
    assert_close_to_fp64(wide, formula(x, weight, bias, None, activation, torch.float64), terms=EPILOGUE)


@pytest.mark.parametrize("activation", [None, "relu", "silu", "glu"])
@pytest.mark.parametrize("outer,inner", [(48, 40), (30, 700), (64, 2100), (62, 33)])
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_linear_in_8_bits_is_batch_invariant(name: str, outer: int, inner: int, activation: Any) -> None:
    rng = random.Random(inner)
    x, weight, bias = normal(90, inner), normal(outer, inner, seed=1), normal(outer, seed=2)
    residual = normal(90, outer // 2 if activation == "glu" else outer, seed=3)
    call = implementation(name)
    full = call(x, weight, bias, activation=activation, residual=residual)
    for count in (1, 2, 5, 16, 17, 33, 89):
        rows = torch.tensor(rng.sample(range(90), count), device=DEVICE)
        part = call(x[rows], weight, bias, activation=activation, residual=residual[rows])
        assert torch.equal(part, full[rows]), count
    assert len(call(x[:0], weight, bias, activation=activation, residual=residual[:0])) == 0


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # by NumPy, of the interpreter
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_linear_in_8_bits_confines_nan_and_infinity_to_their_row_and_output(name: str) -> None:
    x, weight, bias = normal(21, 300), normal(38, 300, seed=1), normal(38, seed=2)
    clean = implementation(name)(x, weight, bias)
    x[2, 3], x[7, 299], x[20, 0] = float("nan"), float("inf"), -float("inf")
    weight[4, 5], weight[30, 1] = float("nan"), float("inf")
    out = implementation(name)(x, weight, bias)
    broken = torch.zeros(21, 38, dtype=torch.bool, device=DEVICE)
    broken[[2, 7, 20]] = True
    broken[:, [4, 30]] = True
    assert not out[broken].isfinite().any()
    assert torch.equal(out[~broken], clean[~broken])


@pytest.mark.skipif(DEVICE.type != "cpu", reason="of a CPU")
def test_linear_in_8_bits_without_exact_instructions_has_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = normal(33, 2100), normal(48, 2100, seed=1), normal(48, seed=2)
    expected = linear(x, pack_weight_int8(weight), bias, activation="relu")
    monkeypatch.setattr(linear_cpu, "int8_sums_are_exact", lambda: False)
    plain = pack_weight_int8(weight)
    assert not plain.values.is_mkldnn
    assert torch.equal(linear(x, plain, bias, activation="relu"), expected)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_linear_in_8_bits_is_exact_for_the_largest_sums(name: str) -> None:
    x, weight = torch.ones(3, 9000, device=DEVICE), torch.ones(32, 9000, device=DEVICE)
    x[1] = -1.0
    weight[1::2] = -1.0
    sums = implementation(name)(x * LARGEST, weight * LARGEST)
    sign = torch.tensor([1.0, -1.0] * 16, device=DEVICE)
    expected = torch.tensor(9000.0 * LARGEST**2).to(DEVICE)
    assert torch.equal(sums, expected * torch.stack([sign, -sign, sign]))
