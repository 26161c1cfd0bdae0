"""Synthetic clips that resemble speech: voiced syllables of varying pitch, noise and pauses."""

from __future__ import annotations

import numpy as np

SAMPLING_RATE = 16_000


def clip(seed: int, seconds: float = 1.0) -> np.ndarray:
    """float32 [samples] in (-1, 1) at 16 kHz; the same seed and length give the same samples."""
    return clip_of_samples(seed, round(seconds * SAMPLING_RATE))


def clip_of_frames(seed: int, frames: int) -> np.ndarray:
    """A clip with exactly `frames` fbank frames of 25 ms every 10 ms; an odd number ends in half a frame of the
    encoder."""
    return clip_of_samples(seed, 400 + 160 * (frames - 1) + seed % 160)


def clip_of_samples(seed: int, samples: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / SAMPLING_RATE
    knots = np.linspace(0.0, max(time[-1], 0.1), max(2, int(time[-1] * 8) + 2))  # about eight syllables a second

    def contour(low: float, high: float) -> np.ndarray:
        return np.interp(time, knots, rng.uniform(low, high, len(knots)))

    phase = 2.0 * np.pi * np.cumsum(contour(90.0, 260.0)) / SAMPLING_RATE
    voiced = sum(contour(0.0, 1.0) * np.sin(k * phase) / k for k in range(1, 12))
    hiss = contour(-0.3, 0.3).clip(min=0.0) * rng.standard_normal(samples)
    loudness = contour(-0.2, 1.0).clip(min=0.0)
    noise_floor = 1e-3 * rng.standard_normal(samples)
    return (0.2 * loudness * (voiced + hiss) + noise_floor).clip(-0.99, 0.99).astype(np.float32)
