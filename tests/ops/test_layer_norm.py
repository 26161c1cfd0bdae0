"""layer_norm, alone and after a scaled residual: accurate in every dtype, and batch-invariant."""

from __future__ import annotations

import pytest
import torch

from seamless_kernels.layer_norm import add_layer_norm, layer_norm
from support.packed import DEVICE, DTYPES, normal
from tolerance import assert_close_to_fp64

DIMS = [(1, 7), (5, 160), (33, 1024), (2, 1), (3, 1000), (2, 8192)]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows,dim", DIMS)
def test_layer_norm_is_close_to_float64(rows: int, dim: int, dtype: torch.dtype) -> None:
    x, residual = normal(rows, dim, dtype=dtype), normal(rows, dim, dtype=dtype, seed=1)
    weight, bias = normal(dim, dtype=dtype, seed=2), normal(dim, dtype=dtype, seed=3)

    def exact(precision: torch.dtype, scale: float | None) -> tuple[torch.Tensor, torch.Tensor]:
        value = x.to(precision) if scale is None else residual.to(precision) + scale * x.to(precision)
        return torch.nn.functional.layer_norm(value, (dim,), weight.to(precision), bias.to(precision)), value

    assert_close_to_fp64(layer_norm(x, weight, bias), exact(torch.float64, None)[0], terms=dim, dtype=dtype)
    for scale in (1.0, 0.5):
        results = add_layer_norm(x, weight, bias, residual=residual, scale=scale)
        for out, truth in zip(results, exact(torch.float64, scale), strict=True):
            assert_close_to_fp64(out, truth, terms=dim, dtype=dtype, narrow=2)  # of the scaled x, and of the sum


@pytest.mark.usefixtures("backend")
def test_layer_norm_keeps_the_variance_beside_a_large_mean() -> None:
    x = 1000.0 + normal(4, 512)
    weight, bias = normal(512, seed=2), normal(512, seed=3)
    exact = torch.nn.functional.layer_norm(x.double(), (512,), weight.double(), bias.double())
    size = 1000.0 * weight.abs().max().item()
    assert_close_to_fp64(layer_norm(x, weight, bias), exact, terms=16, size=size)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [7, 160])
def test_layer_norm_is_batch_invariant(dim: int, dtype: torch.dtype) -> None:
    x, residual = normal(40, dim, dtype=dtype), normal(40, dim, dtype=dtype, seed=1)
    weight, bias = normal(dim, dtype=dtype, seed=2), normal(dim, dtype=dtype, seed=3)
    together = add_layer_norm(x, weight, bias, residual=residual, scale=0.5)
    for rows in (slice(0, 1), slice(3, 4), slice(5, 22), slice(39, 40)):
        some = add_layer_norm(x[rows].clone(), weight, bias, residual=residual[rows].clone(), scale=0.5)
        for part, full in zip(some, together, strict=True):
            assert torch.equal(part, full[rows])


@pytest.mark.usefixtures("backend")
def test_layer_norm_takes_any_strides_and_no_tokens() -> None:
    wide, residual = normal(9, 100), normal(18, 48, seed=1)
    weight, bias = normal(48, seed=2), normal(48, seed=3)
    plain = add_layer_norm(wide[:, 20:68].contiguous(), weight, bias, residual=residual[::2].contiguous())
    for x in (wide[:, 20:68], wide[:, 20:68].T.contiguous().T):
        strided = add_layer_norm(x, weight, bias, residual=residual[::2])
        assert all(torch.equal(a, b) for a, b in zip(strided, plain, strict=True))
    for out in add_layer_norm(wide[:0, 20:68], weight, bias, residual=residual[:0]):
        assert out.shape == (0, 48) and out.device.type == DEVICE.type
