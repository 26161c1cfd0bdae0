"""The dtype that the torch references compute in, and a bound on the rounding error of a result."""

from __future__ import annotations

import torch

# Times what independent roundings add up to: seven standard deviations.
_SAFETY = 4.0


def compute_dtype(x: torch.Tensor) -> torch.dtype:
    """On a CPU float32 for narrower data, so that results are rounded once. The libraries' own kernels for narrow
    dtypes round as their instruction set does, and oneDNN's depthwise convolution in float16 may not return."""
    return torch.promote_types(x.dtype, torch.float32) if x.device.type != "cuda" else x.dtype


def rounding_error(
    exact: torch.Tensor, dtype: torch.dtype, terms: int, *, narrow: int = 0, size: float | None = None
) -> torch.Tensor:
    """How far each element of a result in `dtype` may be from `exact`, float64 of any shape.

    terms: roundings of an element in float32 (or in `dtype`, if that is wider), one for each term of a sum; narrow: its
    roundings in `dtype` before the last; size: magnitude of the numbers that are rounded, by default the largest of
    `exact`.

    Roundings are independent, of at most half an ulp u and of either sign: n of them add up to about sqrt(n) · u · size
    (Higham and Mary 2019, doi 10.1137/18M1226312). One ulp is added for the last one, of the result itself.
    """
    info = torch.finfo(dtype)
    if size is None:
        finite = exact[exact.isfinite()]
        size = finite.abs().max().item() if finite.numel() else 0.0
    wide = min(torch.finfo(torch.float32).eps, info.eps) / 2
    on_the_way = _SAFETY * size * (terms**0.5 * wide + narrow**0.5 * info.eps / 2)
    return on_the_way + info.eps * exact.abs().clamp(min=info.tiny)
