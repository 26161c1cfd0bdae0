"""The demo runs, and its checkpoint answers as its card says."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from support.snippets import ROOT


def test_run_answers_most_requests_as_expected_and_none_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["run.py", "--output_dir", str(tmp_path / "output")])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "demo" / "run.py"), run_name="__main__")
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.partition(" ")[0] in {"asr", "s2tt", "s2st", "t2tt", "t2st"}]
    assert {row.partition(" ")[0] for row in rows} == {"asr", "s2tt", "s2st", "t2tt", "t2st"}
    assert sum("out of domain" in row for row in rows) == 3
    assert sum("  ok  " in row for row in rows) >= len(rows) // 2
    assert float(re.fullmatch(r"word error rate over \d+ recognised clips: ([\d.]+) %", lines[-1])[1]) < 20  # pyright: ignore[reportOptionalSubscript]
    assert len(list((tmp_path / "output").glob("*.png"))) == 1
    speaking = [row for row in rows if row.startswith(("s2st", "t2st"))]
    assert len(list((tmp_path / "output").glob("*.wav"))) == len(speaking)
