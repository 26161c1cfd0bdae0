"""conv_transpose1d: a segment grows by exactly the stride; batch-invariant."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from seamless_kernels.conv_transpose1d import conv_transpose1d, pack_conv_transpose_weight
from support.packed import DTYPES, LENGTHS, assert_segments_independent, bounds, normal, per_segment
from tolerance import assert_close_to_fp64

# The interpreter takes a quarter of a second for 60 rows.
RAGGED = [pytest.param("torch", lengths, id=f"torch-{lengths}") for lengths in LENGTHS] + [
    pytest.param("triton", lengths, id=f"triton-{lengths}", marks=pytest.mark.slow if sum(lengths) > 60 else ())
    for lengths in (*LENGTHS[4:], [3, 17, 1, 2, 31])
]
# Kernel and rate of the five stages of a vocoder, a thirty-second of its channels, but no fewer than 16.
STAGES = [(16, 16, 11, 5), (16, 16, 8, 4), (32, 16, 8, 4), (48, 24, 4, 2), (32, 16, 4, 2)]


def weights(channels: int, out: int, taps: int, stride: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight [channels, out, taps] and bias."""
    size = (channels * taps / stride) ** 0.5
    return normal(channels, out, taps, dtype=dtype, seed=1) / size, normal(out, dtype=dtype, seed=2)


def exact(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, lengths: list[int], stride: int, dtype: torch.dtype
) -> torch.Tensor:
    def run(image: torch.Tensor) -> torch.Tensor:
        padding = (weight.shape[-1] - stride) // 2
        active = F.leaky_relu(image, 0.1)
        return F.conv_transpose1d(active, weight.to(dtype), bias.to(dtype), stride=stride, padding=padding)

    return per_segment(x.to(dtype), lengths, run)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend,lengths", RAGGED, indirect=["backend"])
@pytest.mark.parametrize("taps,stride", [(11, 5), (8, 4), (4, 2)])
def test_conv_transpose1d_is_close_to_float64(lengths: list[int], taps: int, stride: int, dtype: torch.dtype) -> None:
    x, (weight, bias) = normal(sum(lengths), 12, dtype=dtype), weights(12, 6, taps, stride, dtype)
    true = exact(x, weight, bias, lengths, stride, torch.float64)
    out = conv_transpose1d(x, pack_conv_transpose_weight(weight), bias, bounds(lengths), stride=stride, leaky_slope=0.1)
    assert len(out) == sum(lengths) * stride
    assert_close_to_fp64(out, true, terms=12 * taps, dtype=dtype, narrow=1)  # 1: an activation


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("channels,out,taps,stride", STAGES)
def test_conv_transpose1d_with_the_filters_of_a_vocoder(channels: int, out: int, taps: int, stride: int) -> None:
    lengths = [2, 29, 1]
    x, (weight, bias) = normal(32, channels), weights(channels, out, taps, stride, torch.float32)
    true = exact(x, weight, bias, lengths, stride, torch.float64)
    packed = pack_conv_transpose_weight(weight)
    grown = conv_transpose1d(x, packed, bias, bounds(lengths), stride=stride, leaky_slope=0.1)
    assert_close_to_fp64(grown, true, terms=channels * taps)


@pytest.mark.usefixtures("backend")
def test_conv_transpose1d_does_not_read_other_segments() -> None:
    lengths, (weight, bias) = [9, 20, 4], weights(16, 16, 8, 4, torch.float32)
    x, packed = normal(33, 16), pack_conv_transpose_weight(weight)
    clean = conv_transpose1d(x, packed, bias, bounds(lengths), stride=4, leaky_slope=0.1)
    x[9:29] = float("nan")
    broken = conv_transpose1d(x, packed, bias, bounds(lengths), stride=4, leaky_slope=0.1)
    assert broken[36:116].isnan().all()
    assert torch.equal(broken[:36], clean[:36]) and torch.equal(broken[116:], clean[116:])


@pytest.mark.parametrize(
    "backend,sizes", [("torch", (1, 2, 17, 33, 64, 511, 7)), ("triton", (1, 2, 35))], indirect=["backend"]
)
def test_conv_transpose1d_is_batch_invariant(backend: str, sizes: tuple[int, ...]) -> None:
    weight, bias = pack_conv_transpose_weight(normal(24, 12, 8)), normal(12, seed=1)

    def run(segments: list[torch.Tensor], _: list[int]) -> list[torch.Tensor]:
        lengths = [len(s) for s in segments]
        out = conv_transpose1d(torch.cat(segments), weight, bias, bounds(lengths), stride=4, leaky_slope=0.1)
        return list(out.split([4 * n for n in lengths]))

    assert_segments_independent(run, [normal(n, 24, seed=n) for n in sizes])
