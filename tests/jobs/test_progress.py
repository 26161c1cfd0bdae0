"""What a job tells while it runs."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib.image
import pytest

from seamless_engine.jobs.picture import plot
from seamless_engine.jobs.progress import Counts, Progress, table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock shows."""
    now = [100.0]
    monkeypatch.setattr("seamless_engine.jobs.progress.time.perf_counter", lambda: now[0])
    return now


def run(progress: Progress, seconds: list[float]) -> Counts:
    """4 of 10 entries in 4 s, two of them done before."""
    counts = Counts(entries=2, done=2)
    progress.update(counts)
    progress.start()
    for _ in range(4):
        seconds[0] += 1.0
        counts.entries += 1
        counts.results += 1
        counts.audio_seconds += 900.0
        progress.update(counts)
    progress.end(counts)
    return counts


def test_progress_tells_a_terminal_items_audio_speed_and_the_time_that_is_left(seconds: list[float]):
    terminal = Terminal()
    run(Progress(terminal, 10), seconds)
    lines = [line.rstrip() for line in terminal.getvalue().split("\r") if line.strip()]
    assert lines[-1] == "4 results, 0 errors, 1.00 h of audio, RTFx 900.0, ETA 0:00:04"
    assert terminal.getvalue().endswith(" \r")


def test_progress_tells_nothing_to_a_file(seconds: list[float]):
    file = io.StringIO()
    counts = run(Progress(file, None), seconds)
    assert file.getvalue() == "" and counts.rtfx == 900.0


def test_progress_keeps_few_samples_of_a_long_job(seconds: list[float]):
    progress = Progress(io.StringIO(), None)
    progress.start()
    counts = Counts()
    for _ in range(20_000):
        seconds[0] += 1.0
        counts.results += 1
        progress.update(counts)
    assert 400 < len(progress.samples) <= 1001
    assert progress.samples[0] == (0.0, 0, 0.0) and progress.samples == sorted(progress.samples)


def test_table_leaves_out_what_there_was_none_of():
    assert table(Counts(), "out") == "results      0\nerrors       0\noutput       out"


def test_plot_writes_a_picture(seconds: list[float], tmp_path: Path):
    progress = Progress(io.StringIO(), None)
    counts = run(progress, seconds)
    counts.stages = {"encode": 1.0, "decode": 2.0}
    assert plot(str(tmp_path / "run.png"), progress.samples, counts)
    assert matplotlib.image.imread(tmp_path / "run.png").ndim == 3
