"""What the torch references compute in, and how far roundings carry a result from the formula."""

from __future__ import annotations

import torch

# Of what independent roundings add up to: seven standard deviations.
_SAFETY = 4.0


def compute_dtype(x: torch.Tensor) -> torch.dtype:
    """On a CPU float32 for narrower data: results are rounded once, and libraries' narrow kernels are left alone, which
    round as their instruction set has it or, like oneDNN's depthwise convolution in float16, may never return."""
    return torch.promote_types(x.dtype, torch.float32) if x.device.type != "cuda" else x.dtype


def rounding_error(
    exact: torch.Tensor, dtype: torch.dtype, terms: int, *, narrow: int = 0, size: float | None = None
) -> torch.Tensor:
    """How far a result in `dtype` may be from `exact`, float64 of any shape, element by element.

    terms: roundings in float32 (or in `dtype`, if that is wider) on the way to an element, one for each number of a
    sum; narrow: those in `dtype` before the last; size: of the numbers that are rounded, the largest of `exact` if it
    is not given.

    Roundings are independent, of at most half an ulp u and of either sign: n of them add up to some sqrt(n) · u · size
    (Higham and Mary 2019, doi 10.1137/18M1226312). The last one, of the result itself, has an ulp of its own.
    """
    info = torch.finfo(dtype)
    if size is None:
        finite = exact[exact.isfinite()]
        size = finite.abs().max().item() if finite.numel() else 0.0
    wide = min(torch.finfo(torch.float32).eps, info.eps) / 2
    on_the_way = _SAFETY * size * (terms**0.5 * wide + narrow**0.5 * info.eps / 2)
    return on_the_way + info.eps * exact.abs().clamp(min=info.tiny)
