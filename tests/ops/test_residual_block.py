"""residual_block: correct to the ends of a segment, and invariant to batch and windows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from seamless_kernels import residual_block as module
from seamless_kernels.flash import ONE_CHUNK, max_tiles
from seamless_kernels.residual_block import pack_residual_block, residual_block, window_height
from support.packed import BACKENDS, DTYPES, WITH_NATIVE, assert_segments_independent, bounds, normal, per_segment
from tolerance import assert_close_to_fp64

DILATIONS = (1, 3, 5)
SLOPE = 0.1
NARROW = 6  # roundings of h and of x, of each pair
every_backend = pytest.mark.parametrize("backend", WITH_NATIVE, indirect=True)
# The interpreter takes seconds for a hundred rows. The three pairs of the widest filter reach 60 rows.
RAGGED = [
    pytest.param(lengths, id=str(lengths), marks=pytest.mark.slow if sum(lengths) > 60 else ())
    for lengths in ([2, 1, 13], [59], [1], [130, 3, 61, 211])
]


def roundings(dim: int, taps: int) -> int:
    """Of six convolutions, four times as many as their formula has: on a CPU rows are made two by two."""
    return 6 * 4 * dim * taps


def weights(dim: int, taps: int, dtype: torch.dtype = torch.float32) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Of three pairs: weights [dim, dim, taps] and biases [6, dim], large enough to show at the ends."""
    size = (dim * taps) ** 0.5
    return [normal(dim, dim, taps, dtype=dtype, seed=i) / size for i in range(6)], normal(6, dim, dtype=dtype, seed=6)


def exact(
    x: torch.Tensor, kernels: list[torch.Tensor], biases: torch.Tensor, lengths: list[int], dtype: torch.dtype
) -> torch.Tensor:
    half = kernels[0].shape[-1] // 2

    def run(image: torch.Tensor) -> torch.Tensor:
        for i, dilation in enumerate(DILATIONS):
            options = {"padding": half * dilation, "dilation": dilation}
            h = F.conv1d(F.leaky_relu(image, SLOPE), kernels[2 * i].to(dtype), biases[2 * i].to(dtype), **options)
            image = image + F.conv1d(
                F.leaky_relu(h, SLOPE), kernels[2 * i + 1].to(dtype), biases[2 * i + 1].to(dtype), padding=half
            )
        return image

    return per_segment(x.to(dtype), lengths, run)


@every_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lengths", RAGGED)
@pytest.mark.parametrize(
    "dim,taps", [(16, 3), (16, 7), (16, 11), (32, 3), pytest.param(32, 11, marks=pytest.mark.slow)]
)
def test_residual_block_is_close_to_float64(
    backend: str, dim: int, taps: int, lengths: list[int], dtype: torch.dtype
) -> None:
    x, (kernels, biases) = normal(sum(lengths), dim, dtype=dtype, seed=7), weights(dim, taps, dtype)
    true = exact(x, kernels, biases, lengths, torch.float64)
    packed = pack_residual_block(kernels)
    out = residual_block(x, packed, biases, bounds(lengths), dilations=DILATIONS, leaky_slope=SLOPE)
    assert_close_to_fp64(out, true, terms=roundings(dim, taps), dtype=dtype, narrow=NARROW)


@every_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_residual_block_writes_the_mean_of_several_blocks(backend: str, dtype: torch.dtype) -> None:
    lengths = [21, 40]
    x, blocks = normal(61, 16, dtype=dtype, seed=7), [weights(16, taps, dtype) for taps in (3, 7, 11)]
    true = torch.stack([exact(x, kernels, biases, lengths, torch.float64) for kernels, biases in blocks]).sum(0) / 3
    total = None
    for i, (kernels, biases) in enumerate(blocks):
        total = residual_block(
            x,
            pack_residual_block(kernels),
            biases,
            bounds(lengths),
            dilations=DILATIONS,
            leaky_slope=SLOPE,
            total=total,
            scale=1 / 3 if i == 2 else 1.0,
        )
    assert total is not None
    assert_close_to_fp64(total, true, terms=roundings(16, 11), dtype=dtype, narrow=3 * NARROW)


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name == "triton"], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_residual_block_is_invariant_to_windows_and_launches(
    backend: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = [7, 110]
    x, (kernels, biases) = normal(117, 16, dtype=dtype, seed=7), weights(16, 7, dtype)
    packed: Any = pack_residual_block(kernels)  # a tensor for Triton
    full = residual_block(x, packed, biases, bounds(lengths), dilations=DILATIONS, leaky_slope=SLOPE)
    y = x
    for i, dilation in enumerate(DILATIONS):
        two = slice(2 * i, 2 * i + 2)
        y = residual_block(y, packed[two], biases[two], bounds(lengths), dilations=(dilation,), leaky_slope=SLOPE)
    assert torch.equal(full, y)
    for height in (90, 128, 200, 320):
        monkeypatch.setattr(module, "window_height", lambda *_, height=height: height)
        again = residual_block(x, packed, biases, bounds(lengths), dilations=DILATIONS, leaky_slope=SLOPE)
        assert torch.equal(full, again)


@pytest.mark.parametrize("rows,segments", [(1, 1), (2500, 1), (35_000, 14), (82_500, 33), (640_000, 256)])
@pytest.mark.parametrize("margin,largest,tile,programs", [(5, 384, 128, 132), (1, 512, 128, 264), (55, 1024, 512, 264)])
def test_window_height_leaves_the_fewest_rows_to_the_busiest_program(
    rows: int, segments: int, margin: int, largest: int, tile: int, programs: int
) -> None:
    def busiest(height: int) -> int:
        return -(-max_tiles(rows, segments, ONE_CHUNK, height - 2 * margin) // programs) * height

    height = window_height(rows, segments, margin, largest, tile, programs)
    assert height % tile == 0 and 4 * margin <= height <= largest
    for other in range(tile, largest + 1, tile):
        if other >= 4 * margin:
            assert (busiest(height), -height) <= (busiest(other), -other)


def test_window_height_has_room_for_a_halo_that_is_wider_than_the_largest_window() -> None:
    assert window_height(10_000, 1, 300, 256, 128, 8) == 1280  # the first multiple of 128 from 4 · 300 on


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name == "triton"], indirect=True)
def test_residual_block_of_a_part_equals_the_whole_away_from_the_cuts(backend: str) -> None:
    x, (kernels, biases) = normal(130, 16, seed=7), weights(16, 3)
    packed, reach = pack_residual_block(kernels), 12
    full = residual_block(x, packed, biases, bounds([130]), dilations=DILATIONS, leaky_slope=SLOPE)
    part = residual_block(x[37:111], packed, biases, bounds([74]), dilations=DILATIONS, leaky_slope=SLOPE)
    assert torch.equal(part[reach:-reach], full[37 + reach : 111 - reach])


@every_backend
def test_residual_block_does_not_read_other_segments(backend: str) -> None:
    lengths, (kernels, biases) = [9, 30, 4], weights(16, 11)
    x, packed = normal(43, 16, seed=7), pack_residual_block(kernels)
    clean = residual_block(x, packed, biases, bounds(lengths), dilations=DILATIONS, leaky_slope=SLOPE)
    x[9:39] = float("nan")
    broken = residual_block(x, packed, biases, bounds(lengths), dilations=DILATIONS, leaky_slope=SLOPE)
    assert broken[9:39].isnan().all()
    assert torch.equal(broken[:9], clean[:9]) and torch.equal(broken[39:], clean[39:])


@pytest.mark.parametrize(
    "backend,dim,taps,sizes",
    [
        *[(name, 16, 11, (1, 2, 17, 64, 211, 7)) for name in WITH_NATIVE if name != "triton"],
        ("triton", 16, 7, (1, 2, 19)),
        ("triton", 32, 3, (2, 19)),
        pytest.param("triton", 32, 11, (1, 2, 17, 64, 131, 7), marks=pytest.mark.slow),
    ],
    indirect=["backend"],
)
def test_residual_block_is_batch_invariant(backend: str, dim: int, taps: int, sizes: tuple[int, ...]) -> None:
    kernels, biases = weights(dim, taps)
    packed = pack_residual_block(kernels)

    def run(segments: list[torch.Tensor], _: list[int]) -> list[torch.Tensor]:
        lengths = [len(s) for s in segments]
        x = torch.cat(segments)
        out = residual_block(x, packed, biases, bounds(lengths), dilations=DILATIONS, leaky_slope=SLOPE)
        return list(out.split(lengths))

    assert_segments_independent(run, [normal(n, dim, seed=n) for n in sizes])
