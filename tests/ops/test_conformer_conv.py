"""conformer_conv: causal within the segment, padded frames count as zero, batch-invariant."""

from __future__ import annotations

import pytest
import torch

from seamless_kernels.conformer_conv import conformer_conv
from support.packed import DEVICE, DTYPES, LENGTHS, assert_segments_independent, bounds, normal
from tolerance import assert_close_to_fp64

# The interpreter takes a tenth of a second for 16 rows.
SLOW = pytest.mark.slow if DEVICE.type == "cpu" else ()
RAGGED = [pytest.param("torch", lengths, id=f"torch-{lengths}") for lengths in LENGTHS] + [
    pytest.param("triton", lengths, id=f"triton-{lengths}", marks=SLOW if sum(lengths) > 60 else ())
    for lengths in (*LENGTHS, [3, 17, 1, 31])
]
SHAPES = [(24, 31), (64, 7)]


def exact(
    x: torch.Tensor,
    w: torch.Tensor,
    norm: tuple[torch.Tensor, torch.Tensor],
    lengths: list[int],
    valid: list[int],
    dtype: torch.dtype,
) -> torch.Tensor:
    dim, taps = w.shape
    out, start = [], 0
    for length, count in zip(lengths, valid, strict=True):
        y = torch.nn.functional.glu(x[start : start + length].to(dtype), dim=-1)
        y[count:] = 0
        z = torch.zeros(length, dim, dtype=dtype, device=x.device)
        for t in range(length):
            for tap in range(taps):
                source = t - (taps - 1) + tap
                if source >= 0:
                    z[t] += w[:, tap].to(dtype) * y[source]
        out.append(
            torch.nn.functional.silu(torch.nn.functional.layer_norm(z, (dim,), norm[0].to(dtype), norm[1].to(dtype)))
        )
        start += length
    return torch.cat(out)


def weights(dim: int, taps: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Taps, and weight and bias of the norm."""
    norm = 1 + normal(dim, dtype=dtype, seed=2) / 5
    return normal(dim, taps, dtype=dtype, seed=1) / taps**0.5, norm, normal(dim, dtype=dtype, seed=3)


def counts(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend,lengths", RAGGED, indirect=["backend"])
@pytest.mark.parametrize("dim,taps", SHAPES)
def test_conformer_conv_is_close_to_float64(lengths: list[int], dim: int, taps: int, dtype: torch.dtype) -> None:
    x = normal(sum(lengths), 2 * dim, dtype=dtype)
    w, *norm = weights(dim, taps, dtype)
    valid = [max(n - i % 2, 1) for i, n in enumerate(lengths, start=1)]
    out = conformer_conv(x, w, norm[0], norm[1], bounds(lengths), counts(valid))
    truth = exact(x, w, (norm[0], norm[1]), lengths, valid, torch.float64)
    assert_close_to_fp64(out, truth, terms=taps + dim, dtype=dtype)


@pytest.mark.usefixtures("backend")
def test_conformer_conv_does_not_read_padded_frames() -> None:
    lengths, valid, (w, *norm) = [9, 20], [8, 19], weights(24, 31)
    x = normal(29, 48)
    plain = conformer_conv(x, w, norm[0], norm[1], bounds(lengths), counts(valid))
    x[8], x[28] = float("nan"), float("inf")
    assert torch.equal(conformer_conv(x, w, norm[0], norm[1], bounds(lengths), counts(valid)), plain)


@pytest.mark.usefixtures("backend")
def test_conformer_conv_takes_any_strides_and_no_frames() -> None:
    x, (w, *norm) = normal(23, 100), weights(24, 31)
    plain = conformer_conv(x[:, :48].contiguous(), w, norm[0], norm[1], bounds([20, 3]), counts([20, 3]))
    again = conformer_conv(x[:, :48], w.T.contiguous().T, norm[0], norm[1], bounds([20, 3]), counts([20, 3]))
    assert torch.equal(again, plain)
    assert conformer_conv(x[:0, :48], w, norm[0], norm[1], bounds([]), counts([])).shape == (0, 24)


@pytest.mark.parametrize(
    "backend,sizes,taps",
    [
        ("torch", (1, 2, 17, 33, 64, 1000, 7), 31),
        ("triton", (1, 2, 17, 7), 7),
        pytest.param("triton", (1, 2, 17, 33, 64, 130, 7), 31, marks=SLOW),
    ],
    indirect=["backend"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_conformer_conv_is_batch_invariant(backend: str, sizes: tuple[int, ...], taps: int, dtype: torch.dtype) -> None:
    w, *norm = weights(48, taps, dtype)

    def run(segments: list[torch.Tensor], _: list[int]) -> list[torch.Tensor]:
        lengths = [len(segment) for segment in segments]
        together = conformer_conv(torch.cat(segments), w, norm[0], norm[1], bounds(lengths), counts(lengths))
        return list(together.split(lengths))

    assert_segments_independent(run, [normal(n, 96, dtype=dtype, seed=n) for n in sizes])
