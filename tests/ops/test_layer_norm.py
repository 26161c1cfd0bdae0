"""layer_norm, alone and after a scaled residual."""

from __future__ import annotations

import pytest
import torch

from seamless_kernels.layer_norm import add_layer_norm, layer_norm
from support.packed import DTYPES, normal
from tolerance import assert_close_to_fp64


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows,dim", [(1, 7), (5, 160), (33, 1024)])
def test_error_is_at_most_twice_torch(rows: int, dim: int, dtype: torch.dtype) -> None:
    x, residual = normal(rows, dim, dtype=dtype), normal(rows, dim, dtype=dtype, seed=1)
    weight, bias = normal(dim, dtype=dtype, seed=2), normal(dim, dtype=dtype, seed=3)

    def exact(precision: torch.dtype, scale: float | None) -> torch.Tensor:
        value = x.to(precision) if scale is None else residual.to(precision) + scale * x.to(precision)
        return torch.nn.functional.layer_norm(value, (dim,), weight.to(precision), bias.to(precision))

    assert_close_to_fp64(layer_norm(x, weight, bias), exact(dtype, None), exact(torch.float64, None))
    for scale in (1.0, 0.5):
        normed, total = add_layer_norm(x, weight, bias, residual=residual, scale=scale)
        assert_close_to_fp64(normed, exact(dtype, scale), exact(torch.float64, scale))
        assert torch.equal(total, residual + scale * x)
