"""conv1d: exact at the edges of a segment, and independent of its neighbours to the bit."""

from __future__ import annotations

import pytest
import torch

from seamless_kernels.conv1d import conv1d, pack_conv_weight
from support.packed import DTYPES, LENGTHS, assert_segments_independent, bounds, normal, per_segment
from tolerance import assert_close_to_fp64


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("taps,dilation,slope", [(3, 1, None), (7, 1, 0.1), (11, 5, 0.1), (3, 3, 0.01)])
def test_convolution_error_is_at_most_twice_torch(
    lengths: list[int], taps: int, dilation: int, slope: float | None, dtype: torch.dtype
) -> None:  # noqa: E501
    x = normal(sum(lengths), 12, dtype=dtype)
    weight, bias = normal(20, 12, taps, dtype=dtype, seed=1) / (12 * taps) ** 0.5, normal(20, dtype=dtype, seed=2)
    residual = normal(sum(lengths), 20, dtype=dtype, seed=3)

    def exact(precision: torch.dtype) -> torch.Tensor:
        def run(image: torch.Tensor) -> torch.Tensor:
            active = image if slope is None else torch.nn.functional.leaky_relu(image, slope)
            padding = (taps - 1) // 2 * dilation
            return torch.nn.functional.conv1d(
                active, weight.to(precision), bias.to(precision), padding=padding, dilation=dilation
            )

        return residual.to(precision) + per_segment(x.to(precision), lengths, run)

    out = conv1d(
        x, pack_conv_weight(weight), bias, bounds(lengths), dilation=dilation, leaky_slope=slope, residual=residual
    )
    assert_close_to_fp64(out, exact(dtype), exact(torch.float64))


@pytest.mark.parametrize(
    "channels,out_channels,taps,dilation", [(256, 256, 3, 1), (40, 24, 7, 3), (16, 16, 11, 5), (2, 1, 7, 1)]
)
def test_segments_are_independent(channels: int, out_channels: int, taps: int, dilation: int) -> None:
    weight, bias = pack_conv_weight(normal(out_channels, channels, taps)), normal(out_channels, seed=1)

    def run(segments: list[torch.Tensor], _: list[int]) -> list[torch.Tensor]:
        lengths = [len(s) for s in segments]
        return list(conv1d(torch.cat(segments), weight, bias, bounds(lengths), dilation=dilation).split(lengths))

    assert_segments_independent(run, [normal(n, channels, seed=n) for n in (1, 2, 17, 33, 64, 511, 7)])
