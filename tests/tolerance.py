"""How far a floating-point result may be from its reference, and why: the only tolerances of the tests."""

from __future__ import annotations

import torch

from seamless_kernels.precision import rounding_error

# Discrete results must agree wherever the margin of the reference (logits, scores, durations) exceeds this.
MARGIN = 1e-4
# Waveforms, of which the full scale is 1.
WAVEFORM_ATOL = 1e-5
# Log-spectra of 60 dB of a waveform made in 16 bits, root of the mean square difference in dB. Twice what was measured
# on the tiny random checkpoints.
SPECTRUM_DB = {torch.float16: 0.1, torch.bfloat16: 0.6}
# Probabilities of speech between two orders of summation, after the recurrence over a clip. Measured: 1.2e-5.
PROBABILITY_ATOL = 1e-4
# Borders of segments that a test knows, in seconds: what a reader of subtitles does not notice.
BORDER_SECONDS = 0.25
# Normalised log-mel features, of order 1; float64 up to the logarithm, as the reference has it.
FEATURE_ATOL = 1e-5
# Sums of log-probabilities between two implementations of one search on the same inputs.
SCORE_ATOL = 1e-5
# Logits of a whole model with int8 weights: root of the mean square difference, relative to that of the logits.
# Twice what was measured on the tiny random checkpoints.
INT8_RMS = 0.11
# Scores of whole texts against another implementation: logits differ in their last bits at every step.
SCORE_RTOL = 1e-5
# A convolution stored with weight norm, folded: g · v / ‖v‖ in float32 against the product that was split.
WEIGHT_NORM_RTOL = 1e-5
# Whole modules on the tiny random checkpoints, relative to the output's largest value. torch's own error against
# float64 there is at most 2e-6, 6e-3 and 4e-2.
MODEL_RTOL = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}


def assert_close_to_fp64(
    out: torch.Tensor,
    exact: torch.Tensor,
    terms: int,
    *,
    dtype: torch.dtype = torch.float32,
    narrow: int = 0,
    size: float | None = None,
) -> None:
    """`out` has `dtype`, and is within `rounding_error` of `exact`, the same result in float64.

    The bound does not use the error of a library, which differs between processors. NaN and infinities must be at the
    same places in `out` and `exact`.
    """
    assert out.dtype == dtype and exact.dtype == torch.float64
    allowed = rounding_error(exact, dtype, terms, narrow=narrow, size=size)
    _assert_within(out, exact, allowed, _same_places(out, exact))


def assert_model_close(out: torch.Tensor, reference: torch.Tensor, dtype: torch.dtype | None = None) -> None:
    """Whole modules, by `MODEL_RTOL` of `dtype` (the output's own if not given): the dtype that the weights have."""
    assert not reference.isnan().any(), "the reference has NaN"
    scale = max(1.0, reference.abs().max().item()) if reference.numel() else 1.0
    finite = _same_places(out, reference)
    allowed = torch.full_like(reference, MODEL_RTOL[dtype or out.dtype] * scale, dtype=torch.float64)
    _assert_within(out, reference, allowed, finite)


def assert_waveform_close(out: torch.Tensor, reference: torch.Tensor) -> None:
    finite = _same_places(out, reference)
    _assert_within(out, reference, torch.full_like(reference, WAVEFORM_ATOL, dtype=torch.float64), finite)


def assert_spectrum_close(out: torch.Tensor, reference: torch.Tensor, dtype: torch.dtype) -> None:
    """Two waveforms [samples], the first made with weights and activations in `dtype`, by `SPECTRUM_DB`."""
    assert out.shape == reference.shape, f"shape {tuple(out.shape)}, expected {tuple(reference.shape)}"
    window = torch.hann_window(512)
    ours, theirs = (torch.stft(x, 512, 128, window=window, return_complex=True).abs() for x in (out, reference))
    floor = theirs.max() / 1000.0
    difference = 20.0 * (ours.clamp(min=floor) / theirs.clamp(min=floor)).log10()
    distance = difference.square().mean().sqrt().item()
    assert distance <= SPECTRUM_DB[dtype], f"{distance:.3f} dB apart"


def _same_places(out: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Mask of finite elements, after a check that shapes, NaN and infinities agree."""
    assert out.shape == reference.shape, f"shape {tuple(out.shape)}, expected {tuple(reference.shape)}"
    for name, test in (("NaN", torch.isnan), ("+inf", torch.isposinf), ("-inf", torch.isneginf)):
        wrong = test(out) != test(reference)
        assert not wrong.any(), f"{int(wrong.sum())} {name} at other places, first {wrong.nonzero()[0].tolist()}"
    return torch.isfinite(reference)


def _assert_within(out: torch.Tensor, reference: torch.Tensor, allowed: torch.Tensor, finite: torch.Tensor) -> None:
    error = (out.double() - reference.double()).abs()
    wrong = finite & (error > allowed)
    if wrong.any():
        first = tuple(wrong.nonzero()[0].tolist())
        raise AssertionError(
            f"{int(wrong.sum())} of {wrong.numel()} elements are too far off, the largest error is "
            f"{error[finite].max():.3e}; first at {first}: {out[first].item():.9g} for {reference[first].item():.9g}, "
            f"{error[first]:.3e} > {allowed[first]:.3e}"
        )
