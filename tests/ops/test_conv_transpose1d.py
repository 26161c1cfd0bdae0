"""conv_transpose1d: a segment grows by the stride exactly, and does not feel its neighbours."""

from __future__ import annotations

import pytest
import torch

from seamless_kernels.conv_transpose1d import conv_transpose1d, pack_conv_transpose_weight
from support.packed import DTYPES, LENGTHS, assert_segments_independent, bounds, normal, per_segment
from tolerance import assert_close_to_fp64


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("taps,stride", [(11, 5), (8, 4), (4, 2)])
def test_transposed_error_is_at_most_twice_torch(
    lengths: list[int], taps: int, stride: int, dtype: torch.dtype
) -> None:
    x = normal(sum(lengths), 12, dtype=dtype)
    weight, bias = (
        normal(12, 6, taps, dtype=dtype, seed=1) / (12 * taps / stride) ** 0.5,
        normal(6, dtype=dtype, seed=2),
    )

    def exact(precision: torch.dtype) -> torch.Tensor:
        def run(image: torch.Tensor) -> torch.Tensor:
            active = torch.nn.functional.leaky_relu(image, 0.1)
            padding = (taps - stride) // 2
            return torch.nn.functional.conv_transpose1d(
                active, weight.to(precision), bias.to(precision), stride=stride, padding=padding
            )

        return per_segment(x.to(precision), lengths, run)

    packed = pack_conv_transpose_weight(weight)
    out = conv_transpose1d(x, packed, bias, bounds(lengths), stride=stride, leaky_slope=0.1)
    assert len(out) == sum(lengths) * stride
    assert_close_to_fp64(out, exact(dtype), exact(torch.float64))


def test_transposed_segments_are_independent() -> None:
    weight, bias = pack_conv_transpose_weight(normal(24, 12, 8)), normal(12, seed=1)

    def run(segments: list[torch.Tensor], _: list[int]) -> list[torch.Tensor]:
        lengths = [len(s) for s in segments]
        out = conv_transpose1d(torch.cat(segments), weight, bias, bounds(lengths), stride=4, leaky_slope=0.1)
        return list(out.split([4 * n for n in lengths]))

    assert_segments_independent(run, [normal(n, 24, seed=n) for n in (1, 2, 17, 33, 64, 511, 7)])
