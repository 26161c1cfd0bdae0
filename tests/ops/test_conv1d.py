"""conv1d: correct at the edges of a segment, and batch-invariant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from seamless_kernels.config import table
from seamless_kernels.conv1d import TILE, conv1d, pack_conv_weight
from support.packed import (
    DEVICE,
    DTYPES,
    LENGTHS,
    WITH_NATIVE,
    assert_segments_independent,
    bounds,
    normal,
    per_segment,
)
from tolerance import assert_close_to_fp64

every_backend = pytest.mark.parametrize("backend", WITH_NATIVE, indirect=True)
# The interpreter takes a quarter of a second for 60 rows. The widest filter of a vocoder reaches 25 rows.
RAGGED = [
    pytest.param(name, lengths, id=f"{name}-{lengths}")
    for name in WITH_NATIVE
    if name != "triton"
    for lengths in LENGTHS
] + [
    pytest.param("triton", lengths, id=f"triton-{lengths}", marks=pytest.mark.slow if sum(lengths) > 60 else ())
    for lengths in (*LENGTHS[4:], [3, 17, 1, 2, 31])
]
PAIRED = 4  # roundings where the formula has one: sums and differences of rows and of weights, for two rows at a time
SHAPES = [(taps, dilation) for taps in (3, 7, 11) for dilation in (1, 3, 5)]


def weights(
    out: int, channels: int, taps: int, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight [out, channels, taps] and bias."""
    return normal(out, channels, taps, dtype=dtype, seed=1) / (channels * taps) ** 0.5, normal(out, dtype=dtype, seed=2)


def exact(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    lengths: list[int],
    dilation: int,
    slope: float | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    def run(image: torch.Tensor) -> torch.Tensor:
        active = image if slope is None else F.leaky_relu(image, slope)
        padding = (weight.shape[-1] - 1) // 2 * dilation
        return F.conv1d(active, weight.to(dtype), bias.to(dtype), padding=padding, dilation=dilation)

    return per_segment(x.to(dtype), lengths, run)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend,lengths", RAGGED, indirect=["backend"])
@pytest.mark.parametrize("taps,dilation,slope", [(3, 1, None), (7, 1, 0.1), (11, 5, 0.1), (3, 3, 0.01)])
def test_conv1d_is_close_to_float64(
    backend: str, lengths: list[int], taps: int, dilation: int, slope: float | None, dtype: torch.dtype
) -> None:
    x, residual = normal(sum(lengths), 12, dtype=dtype), normal(sum(lengths), 20, dtype=dtype, seed=3)
    weight, bias = weights(20, 12, taps, dtype)
    true = 0.5 * (residual.double() + exact(x, weight, bias, lengths, dilation, slope, torch.float64))
    options = {"dilation": dilation, "leaky_slope": slope, "residual": residual, "scale": 0.5}
    out = conv1d(x, pack_conv_weight(weight), bias, bounds(lengths), **options)
    assert_close_to_fp64(out, true, terms=PAIRED * 12 * taps, dtype=dtype, narrow=1)  # 1: an activation


@every_backend
@pytest.mark.parametrize("taps,dilation", SHAPES)
@pytest.mark.parametrize("channels", [16, pytest.param(32, marks=pytest.mark.slow)])
def test_conv1d_with_the_filters_of_a_vocoder(backend: str, taps: int, dilation: int, channels: int) -> None:
    lengths = [2, 29, 1]
    x, (weight, bias) = normal(32, channels), weights(channels, channels, taps)
    true = exact(x, weight, bias, lengths, dilation, 0.1, torch.float64)
    out = conv1d(x, pack_conv_weight(weight), bias, bounds(lengths), dilation=dilation, leaky_slope=0.1)
    assert_close_to_fp64(out, true, terms=PAIRED * channels * taps)


@every_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_conv1d_to_one_channel_is_float32_from_any_dtype(backend: str, dtype: torch.dtype) -> None:
    lengths = [7, 1, 150]
    x, (weight, bias) = normal(158, 16, dtype=dtype), weights(1, 16, 7)
    true = exact(x, weight, bias, lengths, 1, 0.01, torch.float64)
    out = conv1d(x, pack_conv_weight(weight), bias, bounds(lengths), leaky_slope=0.01)
    assert_close_to_fp64(out, true, terms=PAIRED * 16 * 7)


@every_backend
@pytest.mark.parametrize("out_channels", [1, 24])
def test_conv1d_does_not_read_other_segments(backend: str, out_channels: int) -> None:
    lengths = [9, 20, 4]
    x, (weight, bias) = normal(33, 16), weights(out_channels, 16, 11)
    packed = pack_conv_weight(weight)
    clean = conv1d(x, packed, bias, bounds(lengths), dilation=3, leaky_slope=0.1)
    x[9:29] = float("nan")
    broken = conv1d(x, packed, bias, bounds(lengths), dilation=3, leaky_slope=0.1)
    assert broken[9:29].isnan().all()
    assert torch.equal(broken[:9], clean[:9]) and torch.equal(broken[29:], clean[29:])


@every_backend
@pytest.mark.parametrize("taps,dilation", SHAPES)
def test_conv1d_spreads_nan_to_the_rows_that_read_it_alone(backend: str, taps: int, dilation: int) -> None:
    x, (weight, bias) = normal(32, 16), weights(16, 16, taps)
    for row in (12, 13):
        holed = x.clone()
        holed[row] = float("nan")
        out = conv1d(holed, pack_conv_weight(weight), bias, bounds([32]), dilation=dilation)
        distance = torch.arange(32, device=DEVICE) - row
        reads = (distance % dilation == 0) & (distance.abs() <= taps // 2 * dilation)
        assert torch.equal(out.isnan().any(1), reads) and torch.equal(out.isnan().all(1), reads)


@every_backend
def test_conv1d_takes_any_stride_of_rows(backend: str) -> None:
    x, (weight, bias) = normal(23, 50), weights(24, 48, 3)
    packed = pack_conv_weight(weight)
    plain = conv1d(x[:, :48].contiguous(), packed, bias, bounds([20, 3]))
    assert torch.equal(conv1d(x[:, :48], packed, bias, bounds([20, 3])), plain)


@pytest.mark.parametrize(
    "backend,channels,out_channels,taps,dilation,sizes",
    [
        ("torch", 256, 256, 3, 1, (1, 2, 17, 33, 64, 511, 7)),
        ("torch", 40, 24, 7, 3, (1, 2, 17, 33, 64, 511, 7)),
        ("torch", 16, 16, 11, 5, (1, 2, 17, 33, 64, 511, 7)),
        ("torch", 2, 1, 7, 1, (1, 2, 17, 33, 64, 511, 7)),
        *[
            pytest.param("native", *shape, (1, 2, 17, 33, 64, 511, 7))
            for shape in ((256, 256, 3, 1), (40, 24, 7, 3), (16, 16, 11, 5), (2, 1, 7, 1))
            if "native" in WITH_NATIVE
        ],
        ("triton", 40, 24, 7, 3, (1, 2, 35)),
        ("triton", 16, 16, 11, 5, (1, 2, 35)),
        ("triton", 2, 1, 7, 1, (1, 2, 135)),
        pytest.param("triton", 64, 64, 3, 1, (1, 2, 17, 33, 64, 131, 7), marks=pytest.mark.slow),
    ],
    indirect=["backend"],
)
def test_conv1d_is_batch_invariant(
    backend: str, channels: int, out_channels: int, taps: int, dilation: int, sizes: tuple[int, ...]
) -> None:
    weight, bias = pack_conv_weight(normal(out_channels, channels, taps)), normal(out_channels, seed=1)

    def run(segments: list[torch.Tensor], _: list[int]) -> list[torch.Tensor]:
        lengths = [len(s) for s in segments]
        return list(conv1d(torch.cat(segments), weight, bias, bounds(lengths), dilation=dilation).split(lengths))

    assert_segments_independent(run, [normal(n, channels, seed=n) for n in sizes])


def test_the_tiles_of_conv1d_have_one_order_of_sums_and_one_kind_of_instruction() -> None:
    """A step of the K loop has BLOCK_K products: in float32 they are summed before they are added."""
    resources = json.loads((Path(__file__).parents[1] / "aot" / "resources.json").read_text(encoding="utf-8"))
    kinds = {"sm_80": {"mma"}, "sm_90": {"wgmma"}, "sm_100": {"tcgen05"}}
    for arch, by_dims in table()["conv1d"].items():
        for entry in (entry for entries in by_dims.values() for entry in entries.values()):
            assert len({dict(zip(TILE, sizes, strict=True))["BLOCK_K"] for sizes in entry["TILES"]}) == 1
        rows = [row for key, row in resources.items() if key.startswith(f"conv1d/{arch}/") and "one_channel" not in key]
        assert {row["mma"] for row in rows} == kinds.get(arch, set())
