"""The README's code, its command lines and the demo do what they say."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import soundfile

from seamless_engine.cli import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
COMMANDS = [
    line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines() if line.startswith("seamless-engine")
]


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A working directory that has demo/, as a checkout does, and where files may be written."""
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    monkeypatch.chdir(tmp_path)


def test_python_prints_what_is_shown_below_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    [(_, code)] = [block for block in BLOCKS if block[0] == "python"]
    [(_, shown)] = [block for block in BLOCKS if block[0] == "text"]
    (tmp_path / "snippet.py").write_text(code, encoding="utf-8")
    runpy.run_path(str(tmp_path / "snippet.py"))
    assert capsys.readouterr().out == shown
    assert soundfile.info(tmp_path / "out.wav").duration > 0.5


@pytest.mark.parametrize("command", COMMANDS)
def test_command_lines_work(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(shlex.split(command)[1:]) == 0
    assert capsys.readouterr().out.strip()
    if "--output_path" in command:
        assert soundfile.info(tmp_path / "out.wav").duration > 0.5


def test_files_that_the_readme_links_to_exist():
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", README) if not target.startswith("http")]
    assert targets and all((ROOT / target).is_file() for target in targets)


def test_demo_knows_the_numbers_and_fails_nowhere(
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
    speaking = [row for row in rows if row.startswith(("s2st", "t2st"))]
    assert len(list((tmp_path / "output").glob("*.wav"))) == len(speaking)
