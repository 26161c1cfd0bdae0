"""conformer_conv: causal within the segment, the half-real row counts as zero, segments independent to the bit."""

from __future__ import annotations

import pytest
import torch

from seamless_kernels.conformer_conv import conformer_conv
from support.packed import DTYPES, LENGTHS, assert_segments_independent, bounds, normal
from tolerance import assert_close_to_fp64


def exact(
    x: torch.Tensor,
    w: torch.Tensor,
    norm: tuple[torch.Tensor, torch.Tensor],
    lengths: list[int],
    valid: list[int],
    dtype: torch.dtype,
) -> torch.Tensor:  # noqa: E501
    dim, taps = w.shape
    out, start = [], 0
    for length, real in zip(lengths, valid, strict=True):
        y = torch.nn.functional.glu(x[start : start + length].to(dtype), dim=-1)
        y[real:] = 0
        z = torch.zeros(length, dim, dtype=dtype)
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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("dim,taps", [(24, 31), (64, 7)])
def test_error_is_at_most_twice_torch(lengths: list[int], dim: int, taps: int, dtype: torch.dtype) -> None:
    x = normal(sum(lengths), 2 * dim, dtype=dtype)
    w = normal(dim, taps, dtype=dtype, seed=1) / taps**0.5
    norm = (1 + normal(dim, dtype=dtype, seed=2) / 5, normal(dim, dtype=dtype, seed=3))
    for valid in (lengths, [max(n - 1, 1) for n in lengths]):
        out = conformer_conv(x, w, *norm, bounds(lengths), torch.tensor(valid))
        truth = exact(x, w, norm, lengths, valid, torch.float64)
        assert_close_to_fp64(out, exact(x, w, norm, lengths, valid, dtype), truth)


def test_segments_are_independent() -> None:
    w, weight, bias = normal(48, 31), normal(48, seed=1), normal(48, seed=2)

    def run(segments: list[torch.Tensor], _: list[int]) -> list[torch.Tensor]:
        lengths = [len(s) for s in segments]
        return list(
            conformer_conv(torch.cat(segments), w, weight, bias, bounds(lengths), torch.tensor(lengths)).split(lengths)
        )

    assert_segments_independent(run, [normal(n, 96, seed=n) for n in (1, 2, 17, 33, 64, 1000, 7)])
