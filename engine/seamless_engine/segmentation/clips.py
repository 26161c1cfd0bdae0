"""The segments of a clip."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch

from seamless_engine.errors import UsageError
from seamless_engine.segmentation.options import Segmentation
from seamless_engine.segmentation.segments import Segment, find_segments, segments_of
from seamless_engine.segmentation.vad import SpeechDetector
from seamless_kernels.framing import SAMPLING_RATE


def segments(samples: torch.Tensor, options: Segmentation) -> list[Segment]:
    """In order; none where there is no speech.

    samples: float32 [samples] at 16 kHz. Raises UsageError if the detector is not installed, or for what the caller's
    segmenter raises or returns.
    """
    if options.segmenter is not None:
        return segments_of(_called(options, samples), len(samples), options)
    [probabilities] = _detector().probabilities([samples])
    return find_segments(probabilities.numpy(), len(samples), options)


def _called(options: Segmentation, samples: torch.Tensor) -> object:
    assert options.segmenter is not None
    try:
        found = options.segmenter(samples.numpy().copy(), SAMPLING_RATE)  # its own: other requests read the clip
        return list(found) if isinstance(found, Iterator) else found
    except BaseException as error:  # whatever it is, only this request has it
        raise UsageError(f"the segmenter raised {type(error).__name__}: {error}") from None


@functools.cache
def _detector() -> SpeechDetector:
    return SpeechDetector()
