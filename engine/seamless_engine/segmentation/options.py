"""Segmentation: how to cut a long clip. Without torch and NumPy, as all options of a request."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from seamless_engine import values
from seamless_engine.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

SHORTEST = 1.0  # seconds that a cut leaves at least: shorter pieces are recognised badly


@dataclass(frozen=True)
class Segmentation:
    """How to cut a long clip at its pauses. All numbers but the two thresholds are seconds.

    above: a clip of at most this length stays whole, and its speech is not looked for.
    threshold: speech begins at a frame of at least this probability, and
    negative_threshold: ends at one below this.
    min_speech: shorter speech is noise and is left out.
    min_silence: a phrase that is set off by so much silence is a segment of its own.
    pad: sound before and after the speech of a segment that is transcribed with it; half the pause, where that is less.
    target: a longer phrase is cut at a short silence in it, if there is one.
    limit: the longest that a segment may be, with its padding: a longer phrase is cut in any case.
    join: neighbours with a pause of at most this are joined, up to `target`; 0 joins none.
    segmenter: in place of the detector, a function of the clip and its sampling rate, float32
        [samples] and 16,000, that returns [(start, end), …] in seconds. None has more than `limit`.

    Raises UsageError for a value of another type or out of range.
    """

    threshold: float = 0.5
    negative_threshold: float = 0.35
    min_speech: float = 0.25
    min_silence: float = 0.3
    pad: float = 0.2
    target: float = 15.0
    limit: float = 20.0
    join: float = 0.0
    above: float = 0.0
    segmenter: Callable[[np.ndarray, int], Iterable[tuple[float, float]]] | None = None

    def __post_init__(self) -> None:
        values.check_fields(self, _CHECKS, ("segmenter",))
        if self.negative_threshold > self.threshold:
            raise UsageError(
                f"negative_threshold={self.negative_threshold:g} is above threshold={self.threshold:g}: speech would "
                "end where it begins"
            )
        if not 2.0 * self.pad + 2.0 * SHORTEST <= self.target <= self.limit:
            raise UsageError(
                f"target={self.target:g} must be at most limit={self.limit:g}, and leave {2 * SHORTEST:g} s of speech "
                f"between two paddings of {self.pad:g} s"
            )


def _callable(name: str, value: Any) -> Any:
    if not callable(value):
        raise UsageError(f"{name} must be a function (samples, sampling_rate) -> [(start, end), ...], not {value!r}")
    return value


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("threshold", "negative_threshold"), partial(values.number, low=0.01, high=0.99)),
    "min_speech": partial(values.number, low=0.07, high=60.0),  # three frames: the shortest clip that can be encoded
    **dict.fromkeys(("min_silence", "pad", "join"), partial(values.number, low=0.0, high=60.0)),
    **dict.fromkeys(("target", "limit"), partial(values.number, low=1.0, high=3600.0)),
    "above": partial(values.number, low=0.0, high=1e9),
    "segmenter": _callable,
}
