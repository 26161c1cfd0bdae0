"""csrc's product: the same bits for any rows, threads and tiles, with every instruction set and in every dtype."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from seamless_kernels import native
from seamless_kernels.linear_cpu import pack, product
from support import packed
from support.epilogue import finished
from support.packed import DTYPES
from tolerance import assert_close_to_fp64

assert native.csrc is not None, "csrc/ is not built: it needs g++ and `pip install -e .`"
csrc = native.csrc
normal = partial(packed.normal, device=torch.device("cpu"))
NARROW = (torch.bfloat16, torch.float16)
# Tiles of every height, panels that are not full, chains of several chunks, gates that begin within a panel.
SHAPES = [(1, 7, 13), (5, 257, 32), (40, 64, 1), (29, 1100, 80), (15, 300, 70), (13, 513, 131), (300, 33, 24)]


@pytest.fixture
def all_halves() -> torch.Tensor:
    """Every number of 16 bits, int16 [65536]."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", [None, "relu", "silu", "glu"])
@pytest.mark.parametrize("rows,inner,outer", SHAPES)
def test_product_is_close_to_float64_with_every_instruction_set(
    rows: int, inner: int, outer: int, activation: Any, dtype: torch.dtype, instruction_set: str
) -> None:
    columns = 2 * outer if activation == "glu" else outer
    x, bias = normal(rows, inner, dtype=dtype), normal(columns, dtype=dtype, seed=2)
    weight, residual = normal(columns, inner, dtype=dtype, seed=1) / inner**0.5, normal(rows, outer, seed=3)
    options: dict[str, Any] = {"activation": activation, "scale": 0.5}
    exact = F.linear(x.double(), weight.double(), bias.double())
    exact = finished(exact, activation, 0.5, residual.to(dtype))
    packed = pack(weight)
    out = product(x, packed, bias, residual=residual.to(dtype), **options)
    assert_close_to_fp64(out, exact, terms=inner + 8, dtype=dtype)
    wide = product(x, packed, bias, residual=residual.to(dtype), out_dtype=torch.float32, **options)
    assert_close_to_fp64(wide, exact, terms=inner + 8)
    assert torch.equal(wide.to(dtype), out)
    for chosen in (slice(0, 1), slice(rows // 2, rows), slice(rows - 1, None)):
        part = product(x[chosen].clone(), packed, bias, residual=residual[chosen].to(dtype), **options)
        assert torch.equal(part, out[chosen])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", [None, "glu"])
def test_product_has_the_same_bits_on_any_number_of_threads(dtype: torch.dtype, activation: Any) -> None:
    x, weight = normal(333, 1030, dtype=dtype), pack(normal(300, 1030, dtype=dtype, seed=1))
    before = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            results.append(product(x, weight, activation=activation))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, results[0]) for one in results)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_product_reads_every_16_bit_number_with_every_instruction_set(
    dtype: torch.dtype, instruction_set: str, all_halves: torch.Tensor
) -> None:
    x, one = all_halves.view(dtype)[:, None], pack(torch.ones(1, 1, dtype=dtype))
    wide = product(x, one, out_dtype=torch.float32)
    assert torch.equal(wide.isnan(), x.isnan()) and torch.equal(wide.nan_to_num(), x.float().nan_to_num())
    wide = product(torch.ones(1, 1, dtype=dtype), pack(x), out_dtype=torch.float32)[0]
    assert torch.equal(wide.nan_to_num(), x[:, 0].float().nan_to_num())


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("scale", [1.0, 0.50000006, 1.00048828125, 0.99999994, 3.1e-5, 2.0**-14, 1.0 + 2.0**-9, 4.0])
def test_product_rounds_as_torch_with_every_instruction_set(
    scale: float, dtype: torch.dtype, instruction_set: str, all_halves: torch.Tensor
) -> None:
    """To nearest, halves to even, subnormal numbers and infinities included."""
    x = all_halves.view(dtype)[:, None]
    out = product(x, pack(torch.ones(1, 1, dtype=dtype)), scale=scale)
    expected = (x.float() * torch.tensor(scale)).to(dtype)
    assert torch.equal(out.isnan(), expected.isnan())
    assert torch.equal(out.nan_to_num(), expected.nan_to_num())


def test_product_refuses_operands_that_do_not_fit() -> None:
    x, weight = normal(3, 8), pack(normal(5, 8))
    for wrong in (normal(3, 7), normal(3, 8).to(torch.bfloat16).float().int()):
        with pytest.raises((ValueError, KeyError)):
            product(wrong, weight)
    with pytest.raises(ValueError, match="bias has shape"):
        product(x, weight, normal(4))
    with pytest.raises(ValueError, match="residual has shape"):
        product(x, weight, residual=normal(3, 4))
    with pytest.raises(ValueError, match="even number of columns"):
        product(x, weight, activation="glu")
