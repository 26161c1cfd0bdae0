"""What a job tells while it runs and at its end, and the numbers for both."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TextIO

_TOLD_SECONDS = 1.0
_MOST_SAMPLES = 1000


@dataclass
class Counts:
    """Of one run. entries: read, those of other shards too. done: items that an earlier run answered. changed:
    those whose entry has changed since. audio_seconds: of the clips that were answered, once for each task. stages:
    seconds of `Result.timings`, summed."""

    entries: int = 0
    done: int = 0
    changed: int = 0
    results: int = 0
    errors: int = 0
    audio_seconds: float = 0.0
    speech_seconds: float = 0.0
    tokens: int = 0
    stages: dict[str, float] = field(default_factory=dict)
    load_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def rtfx(self) -> float:
        """Seconds of audio for each second, loading left out."""
        return self.audio_seconds / self.seconds if self.seconds else 0.0


class Progress:
    """A line on a terminal, written again each second; elsewhere nothing. Its samples are for a picture.

    total: entries, None if that is not known.
    samples: (seconds, items, seconds of audio) since the first request, one each second or fewer.
    """

    def __init__(self, stream: TextIO, total: int | None) -> None:
        self.samples: list[tuple[float, int, float]] = [(0.0, 0, 0.0)]
        self._stream = stream if stream.isatty() else None
        self._total = total
        self._started: float | None = None
        self._every = _TOLD_SECONDS
        self._width = 0

    def start(self) -> None:
        """The first request is asked for now."""
        self._started = time.perf_counter()

    def update(self, counts: Counts) -> None:
        """Also brings `counts.seconds` up to date."""
        if self._started is None:
            return
        counts.seconds = time.perf_counter() - self._started
        if counts.seconds - self.samples[-1][0] < self._every:
            return
        self.samples.append((counts.seconds, counts.results + counts.errors, counts.audio_seconds))
        if len(self.samples) > _MOST_SAMPLES:
            self.samples = self.samples[::2]
            self._every *= 2
        self._tell(self._line(counts))

    def end(self, counts: Counts) -> None:
        """The last sample, and the line is cleared."""
        if self._started is not None:
            counts.seconds = time.perf_counter() - self._started
            self.samples.append((counts.seconds, counts.results + counts.errors, counts.audio_seconds))
        if self._width:
            self._tell("")

    def _line(self, counts: Counts) -> str:
        parts = [f"{counts.results:,} results", f"{counts.errors:,} errors"]
        if counts.audio_seconds:
            parts += [f"{counts.audio_seconds / 3600:.2f} h of audio", f"RTFx {counts.rtfx:.1f}"]
        else:
            parts.append(f"{(counts.results + counts.errors) / max(counts.seconds, 1e-9):.1f} items/s")
        if self._total is not None and (worked := counts.entries - counts.done) > 0:
            left = max(self._total - counts.entries, 0) * counts.seconds / worked
            parts.append(f"ETA {int(left) // 3600}:{int(left) // 60 % 60:02d}:{int(left) % 60:02d}")
        return ", ".join(parts)

    def _tell(self, text: str) -> None:
        if self._stream is not None:
            try:
                self._stream.write(f"\r{text:<{self._width}}" + ("" if text else "\r"))
                self._stream.flush()
            except OSError:  # the terminal is gone, and the job goes on
                self._stream = None
            self._width = len(text)


def table(counts: Counts, output: str) -> str:
    """The summary at the end of a run."""
    lines = {
        "results": f"{counts.results:,}",
        "errors": f"{counts.errors:,}" + (", see errors.jsonl" if counts.errors else ""),
        "done before": f"{counts.done:,}" if counts.done else "",
        "changed": f"{counts.changed:,} entries say other things than when they were answered"
        if counts.changed
        else "",
        "audio": f"{_clock(counts.audio_seconds)}, RTFx {counts.rtfx:.1f}" if counts.audio_seconds else "",
        "speech made": _clock(counts.speech_seconds) if counts.speech_seconds else "",
        "time": f"{_clock(counts.seconds)}, and {counts.load_seconds:.1f} s to load the model"
        if counts.seconds
        else "",
        "output": output,
    }
    return "\n".join(f"{name:<12} {text}" for name, text in lines.items() if text)


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"
