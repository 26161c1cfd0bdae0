"""A job that ends at any moment goes on where it ended: nothing is lost, and nothing is there twice."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from seamless_engine.cli import main
from seamless_engine.jobs.output import lock
from support.jobs import outcome, read, run_in_child

Command = Callable[..., list[str]]
CALLS = 24  # that write, sync or rename, of a job with about 150


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, command: Command) -> tuple[Path, float]:
    """The folder of a job that ran through, and how long that took."""
    folder = tmp_path_factory.mktemp("undisturbed")
    started = time.monotonic()
    assert run_in_child(command(folder / "out"), folder / "log") == 1
    return folder / "out", time.monotonic() - started


@pytest.mark.parametrize("kills", [8, pytest.param(40, marks=pytest.mark.slow)])
def test_run_loses_and_repeats_nothing_when_it_is_killed(
    kills: int, undisturbed: tuple[Path, float], tmp_path: Path, command: Command
):
    rng = random.Random(kills)
    expected = outcome(undisturbed[0])
    assert (len(expected[0]), len(expected[1])) == (54, 6)
    killed, job = 0, 0
    while killed < kills:
        folder, code = tmp_path / f"out{job}", -signal.SIGKILL
        job += 1
        while code == -signal.SIGKILL:
            strikes = killed < kills
            at_call = rng.randint(1, CALLS) if strikes and rng.random() < 0.7 else None
            after = rng.uniform(0, undisturbed[1]) if strikes and at_call is None else None
            code = run_in_child(command(folder), tmp_path / "log", at_call=at_call, after=after)
            killed += code == -signal.SIGKILL
        assert code == 1, (tmp_path / "log").read_text()
        assert outcome(folder) == expected


def test_run_stops_when_the_disk_is_full_and_goes_on_later(
    undisturbed: tuple[Path, float], tmp_path: Path, command: Command
):
    folder = tmp_path / "out"
    assert run_in_child(command(folder), tmp_path / "log", file_limit=8000) == 1
    said = (tmp_path / "log").read_text()
    assert "cannot be written: File too large. All results up to here are kept" in said
    assert "Traceback" not in said
    written = read(folder, "results.jsonl")
    assert written and all(line["text"] is not None for line in written)
    assert run_in_child(command(folder), tmp_path / "log") == 1
    assert f"{folder} has {len(written)} results already" in (tmp_path / "log").read_text()
    assert outcome(folder) == outcome(undisturbed[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_run_finishes_what_is_in_flight_at_the_first_signal(
    number: int, undisturbed: tuple[Path, float], tmp_path: Path, command: Command
):
    folder = tmp_path / "out"
    assert run_in_child(command(folder), tmp_path / "log", at_call=20, signals=[number]) == 128 + number
    assert "no more items are taken" in (tmp_path / "log").read_text()
    assert json.loads((folder / "run.json").read_text())["state"] == "interrupted"
    first = len(read(folder, "results.jsonl"))
    assert 0 < first < 54
    assert run_in_child(command(folder), tmp_path / "log") == 1
    assert outcome(folder) == outcome(undisturbed[0])


def test_run_stops_at_once_at_the_second_signal(undisturbed: tuple[Path, float], tmp_path: Path, command: Command):
    folder = tmp_path / "out"
    twice = [signal.SIGINT, signal.SIGINT]
    assert run_in_child(command(folder), tmp_path / "log", at_call=20, signals=twice) == 130
    assert "interrupted" in (tmp_path / "log").read_text()
    assert run_in_child(command(folder), tmp_path / "log") == 1
    assert outcome(folder) == outcome(undisturbed[0])


@pytest.mark.usefixtures("in_process")
def test_run_refuses_a_folder_that_another_run_uses(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "out"
    folder.mkdir()
    lock(folder, "")
    assert main(command(folder)) == 2
    assert f"{folder} is in use by process " in capsys.readouterr().err
    assert not (folder / "results.jsonl").exists()


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("place", ["/proc/out", "{file}/out"])
def test_run_refuses_a_folder_that_cannot_be_made(
    place: str, manifest: str, command: Command, capsys: pytest.CaptureFixture[str]
):
    assert main(command(Path(place.format(file=manifest)))) == 2
    assert "cannot be made" in capsys.readouterr().err


@pytest.mark.usefixtures("in_process")
def test_run_heals_a_torn_line_and_moves_away_a_changed_one(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "out"
    assert main(command(folder)) == 1
    expected = outcome(folder)
    lines = (folder / "results.jsonl").read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"text":"', b'"text":"!')
    (folder / "results.jsonl").write_bytes(b"".join(lines)[:-5])
    assert main(command(folder)) == 1
    assert outcome(folder) == expected
    assert (folder / "results.jsonl.damaged").read_bytes() == lines[3]
