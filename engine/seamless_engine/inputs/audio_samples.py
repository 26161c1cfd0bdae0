"""Samples of any rate and number of channels → mono at 16 kHz."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import soxr

from seamless_engine.errors import AudioError, UsageError
from seamless_kernels.framing import MIN_SAMPLES, SAMPLING_RATE

_MIN_RATE, _MAX_RATE = 4_000, 384_000
_MAX_CHANNELS = 8
_MAX_PEAK = 1e6  # full scale is 1, or 32768 in unscaled 16-bit samples
_CANCELLED = 0.1  # level of the average / level of the channels; eight independent channels have 0.35
_AUDIBLE = 1e-3  # a lower level is silence; full scale is 1

Warn = Callable[[str], object]


@dataclass(frozen=True)
class Section:
    """Samples of one sampling rate and number of channels, as blocks [frames, channels], which can be read once."""

    rate: int
    channels: int
    blocks: Iterable[np.ndarray]


def to_mono(sections: Iterable[Section], max_seconds: float, label: str, warn: Warn) -> np.ndarray:
    """All sections in order, float32 [samples] at 16 kHz.

    Raises AudioError if they last longer than `max_seconds` or less than 35 ms, or cannot be processed.
    """
    mixer = _Mixer(max_seconds, label)
    samples = np.concatenate([np.empty(0, np.float32), *(mixer.mixed(section) for section in sections)])
    if len(samples) == 0:
        raise AudioError(f"{label} has no samples")
    if len(samples) < MIN_SAMPLES:
        seconds = len(samples) / SAMPLING_RATE
        raise AudioError(f"{label} lasts {seconds:.4f} s; at least {MIN_SAMPLES / SAMPLING_RATE} s are needed")
    if not np.abs(samples).max() < _MAX_PEAK:  # also false for NaN
        raise AudioError(f"{label} holds samples that are NaN, infinite or beyond all scale: expected [-1, 1]")
    if mixer.cancelled:
        warn(
            f"the channels of {label} cancel each other, so that their average is nearly silent: pass one of them alone"
        )
    return samples


def as_float(samples: np.ndarray) -> np.ndarray:
    """float32 of the same shape; integers are scaled by their full range."""
    kind = f"{samples.dtype.kind}{samples.dtype.itemsize}"  # of either byte order
    if kind in ("f2", "f4", "f8"):
        with np.errstate(over="ignore"):  # `to_mono` refuses infinity
            return samples.astype(np.float32)
    if kind == "u1":
        return (samples.astype(np.float32) - 128.0) / 128.0
    if kind in ("i2", "i4"):
        return (samples / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
    raise UsageError(f"an audio array must be of floats, int16, int32 or uint8, not {samples.dtype}")


class _Mixer:
    """Averages channels, counts seconds, and compares the level of the average with that of the channels."""

    def __init__(self, max_seconds: float, label: str) -> None:
        self._max_seconds = max_seconds
        self._label = label
        self._seconds = 0.0  # of the previous sections
        self._energy, self._mixed_energy, self._count = 0.0, 0.0, 0

    @property
    def cancelled(self) -> bool:
        loud = self._energy > self._count * _AUDIBLE**2
        return loud and self._mixed_energy < self._energy * _CANCELLED**2

    def mixed(self, section: Section) -> np.ndarray:
        label, rate = self._label, section.rate
        if not _MIN_RATE <= rate <= _MAX_RATE:
            raise AudioError(
                f"{label} has a sampling rate of {rate} Hz; {_MIN_RATE} to {_MAX_RATE} Hz can be resampled"
            )
        if section.channels > _MAX_CHANNELS:
            raise AudioError(f"{label} has {section.channels} channels; up to {_MAX_CHANNELS} can be averaged")
        return _resample(self._averages(section), rate)

    def _averages(self, section: Section) -> Iterator[np.ndarray]:
        count = 0
        for block in section.blocks:
            count += len(block)
            if self._seconds + count / section.rate > self._max_seconds:
                raise AudioError(
                    f"{self._label} lasts longer than {self._max_seconds:g} s: split it, or raise max_audio_seconds; "
                    "a request with segment=True has max_recording_seconds"
                )
            mix = block.mean(axis=1)
            if section.channels > 1:
                with np.errstate(over="ignore"):
                    self._energy += float(np.square(block).mean(axis=1).sum(dtype=np.float64))
                    self._mixed_energy += float(np.square(mix).sum(dtype=np.float64))
                self._count += len(block)
            yield mix
        self._seconds += count / section.rate


def _resample(blocks: Iterable[np.ndarray], rate: int) -> np.ndarray:
    """Blocks at `rate` as one array at 16 kHz, which does not depend on the size of the blocks."""
    if rate == SAMPLING_RATE:
        return np.concatenate([np.empty(0, np.float32), *blocks])
    stream = soxr.ResampleStream(rate, SAMPLING_RATE, 1, dtype="float32", quality="HQ")
    resampled = [stream.resample_chunk(block) for block in blocks]
    return np.concatenate([*resampled, stream.resample_chunk(np.empty(0, np.float32), last=True)])
