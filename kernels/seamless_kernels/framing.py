"""The frames of the filter bank, counted: sampling rate, frame length and step. Imports no torch."""

from __future__ import annotations

SAMPLING_RATE = 16000
FRAME, HOP = 400, 160  # samples
MIN_SAMPLES = FRAME + HOP  # two frames; the variance of one is undefined


def frame_count(samples: int) -> int:
    """Feature frames of a clip of at least one frame's length."""
    return 1 + (samples - FRAME) // HOP


def sample_count(frames: int) -> int:
    """The fewest samples of a clip with so many feature frames."""
    return (frames - 1) * HOP + FRAME
