"""Speech probabilities → the segments of a long clip."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from seamless_engine import values
from seamless_engine.errors import UsageError
from seamless_engine.segmentation.options import SHORTEST, Segmentation
from seamless_engine.segmentation.vad import FRAME, FRAME_SECONDS
from seamless_kernels.framing import MIN_SAMPLES, SAMPLING_RATE

LATE_END = 0.09  # seconds by which the detector's end of speech is late
_MIN_CUT = math.ceil(0.098 / FRAME_SECONDS)  # frames of a silence at which a long phrase is cut
_BEYOND = 0.1  # seconds by which a caller's last span may be longer than the clip: frames of detectors are


class _Piece(NamedTuple):
    """Frames first … end − 1. is_late: the detector found silence behind it, after its true end."""

    first: int
    end: int
    is_late: bool


class Segment(NamedTuple):
    """A part of a clip. Samples first_sample … end_sample − 1 are transcribed; start, end: of the speech, seconds."""

    first_sample: int
    end_sample: int
    start: float
    end: float


def find_segments(probabilities: np.ndarray, samples: int, options: Segmentation) -> list[Segment]:
    """The segments of a clip of so many `samples` at 16 kHz, in order; none where there is no speech.

    probabilities: float [⌈samples / 512⌉] in [0, 1], of `SpeechDetector.probabilities`.
    """
    runs = _speech_runs(probabilities, options)
    phrases = _phrases(runs, options).tolist()
    pieces = [piece for first, end in phrases for piece in _pieces(first, end, runs, probabilities, options)]
    return _padded(_joined(pieces, options), samples, options)


def _speech_runs(probabilities: np.ndarray, options: Segmentation) -> np.ndarray:
    """[runs, 2]: first frame and end of the frames from one at `threshold` to one below `negative_threshold`."""
    begins, ends = probabilities >= options.threshold, probabilities < options.negative_threshold
    if not len(probabilities):
        return np.empty((0, 2), np.int64)
    decisive = np.where(begins | ends, np.arange(len(probabilities)), 0)
    speech = begins[np.maximum.accumulate(decisive)]  # what the last decisive frame said
    return np.flatnonzero(np.diff(speech, prepend=False, append=False)).reshape(-1, 2)


def _phrases(runs: np.ndarray, options: Segmentation) -> np.ndarray:
    """[phrases, 2]: runs with less than `min_silence` between them are one. The detector's silence begins late."""
    if not len(runs):
        return runs
    silences = runs[1:, 0] - runs[:-1, 1]
    apart = np.flatnonzero(silences * FRAME_SECONDS + LATE_END >= options.min_silence)
    phrases = np.stack([runs[np.r_[0, apart + 1], 0], runs[np.r_[apart, len(runs) - 1], 1]], axis=1)
    return phrases[(phrases[:, 1] - phrases[:, 0]) * FRAME_SECONDS >= options.min_speech]


def _pieces(
    first: int, end: int, runs: np.ndarray, probabilities: np.ndarray, options: Segmentation
) -> Iterator[_Piece]:
    """A phrase in pieces: cut where it is longer than `target` and has a silence, or longer than `limit`."""
    while cut := _cut(first, end, runs, probabilities, options):
        yield _Piece(first, cut[0], is_late=cut[0] < cut[1])
        first = cut[1]
    yield _Piece(first, end, is_late=end < len(probabilities))


def _cut(
    first: int, end: int, runs: np.ndarray, probabilities: np.ndarray, options: Segmentation
) -> tuple[int, int] | None:
    """Where the first piece of a phrase ends and the next begins; None where the phrase is not cut."""
    target, limit = (_frames(seconds - 2.0 * options.pad) for seconds in (options.target, options.limit))
    if end - first <= target:
        return None
    shortest = _frames(SHORTEST)
    last = end - shortest
    half, aim = first + target // 2, min(first + target, last)
    inside = runs[(runs[:, 1] > first) & (runs[:, 0] < end)]
    silences = np.stack([inside[:-1, 1], inside[1:, 0]], axis=1)
    silences = silences[silences[:, 1] - silences[:, 0] >= _MIN_CUT]
    cut = _longest(silences, half, aim)
    if cut is None and end - first > limit:
        lowest = half + int(probabilities[half : aim + 1].argmin())
        cut = _longest(silences, first + shortest, min(first + limit, last)) or (lowest, lowest)
    return cut


def _longest(silences: np.ndarray, first: int, last: int) -> tuple[int, int] | None:
    """The longest of the silences [n, 2] that begin at `first` or later and end at `last` or earlier."""
    near = silences[(silences[:, 0] >= first) & (silences[:, 1] <= last)]
    if not len(near):
        return None
    start, end = near[(near[:, 1] - near[:, 0]).argmax()].tolist()
    return start, end


def _joined(pieces: list[_Piece], options: Segmentation) -> list[_Piece]:
    """Neighbours as one where the pause is at most `join` and both together at most `target`."""
    if not options.join:
        return pieces
    target = _frames(options.target - 2.0 * options.pad)
    joined: list[_Piece] = []
    for piece in pieces:
        if joined and piece.end - joined[-1].first <= target and _pause(joined[-1], piece) <= options.join:
            piece = _Piece(joined.pop().first, piece.end, piece.is_late)
        joined.append(piece)
    return joined


def _pause(piece: _Piece, following: _Piece) -> float:
    return (following.first - piece.end) * FRAME_SECONDS + (LATE_END if piece.is_late else 0.0)


def _padded(pieces: list[_Piece], samples: int, options: Segmentation) -> list[Segment]:
    pad = round(options.pad * SAMPLING_RATE)
    if not pieces:
        return []
    middles = [(one.end + two.first) * FRAME // 2 for one, two in pairwise(pieces)]
    segments = []
    for piece, left, right in zip(pieces, [0, *middles], [*middles, samples], strict=True):
        start, end = piece.first * FRAME_SECONDS, min(piece.end * FRAME, samples) / SAMPLING_RATE
        if piece.is_late:
            end = max(end - LATE_END, start + FRAME_SECONDS)
        first_sample, end_sample = max(piece.first * FRAME - pad, left), min(piece.end * FRAME + pad, right)
        segments.append(Segment(first_sample, end_sample, start, end))
    return segments


def _frames(seconds: float) -> int:
    """Whole frames in `seconds`."""
    return math.floor(seconds / FRAME_SECONDS)


def segments_of(spans: Any, samples: int, options: Segmentation) -> list[Segment]:
    """The segments that a caller's segmenter found in a clip of so many `samples` at 16 kHz, without padding.

    spans: (start, end) in seconds, of any iterable.

    Raises UsageError for spans that are no pairs of numbers, or are empty, out of order, overlapping, outside of the
    clip or above the limit.
    """
    clip = samples / SAMPLING_RATE
    segments: list[Segment] = []
    for number, span in enumerate(_listed(spans)):
        start, end = _span(number, span)
        label = f"segment {number} of the segmenter, {start:.3f} to {end:.3f} s,"
        if not 0.0 <= start < end <= clip + _BEYOND:
            raise UsageError(f"{label} does not lie in the clip, which lasts {clip:.3f} s")
        if segments and start < segments[-1].end:
            raise UsageError(f"{label} begins before the end of the one before, {segments[-1].end:.3f} s")
        end = min(end, clip)
        first_sample, end_sample = round(start * SAMPLING_RATE), round(end * SAMPLING_RATE)
        if end_sample - first_sample < MIN_SAMPLES:
            raise UsageError(f"{label} is shorter than {MIN_SAMPLES / SAMPLING_RATE:g} s")
        if end - start > options.limit:
            raise UsageError(f"{label} is longer than limit={options.limit:g} s: cut it, or raise the limit")
        segments.append(Segment(first_sample, end_sample, start, end))
    return segments


def _listed(spans: Any) -> list[Any]:
    try:
        return list(spans.tolist() if hasattr(spans, "tolist") else spans)
    except TypeError:
        raise UsageError(f"the segmenter must return [(start, end), ...] in seconds, not {spans!r}") from None


def _span(number: int, span: Any) -> tuple[float, float]:
    try:
        start, end = (values.number("a time", time, -1e9, 1e9) for time in span)
    except (TypeError, ValueError):  # UsageError is a ValueError
        raise UsageError(f"segment {number} of the segmenter must be (start, end) in seconds, not {span!r}") from None
    return float(start), float(end)
