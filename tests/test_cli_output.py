"""Where the command line writes text and speech, and what it does if one of them cannot be written."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from seamless_engine import Engine, Hypothesis, Result
from seamless_engine.audio_output import encode_audio
from seamless_engine.cli import main

DEMO = Path(__file__).resolve().parents[1] / "demo"
COMMAND = ["translate", str(DEMO / "audio" / "1-eng.wav"), "--tgt_lang", "fra", "--model", str(DEMO / "checkpoint")]


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Result:
    """The result of every command."""
    best = Hypothesis("né", [7, 3], -1.0, "eos")
    speech = np.linspace(-0.5, 0.5, 16_000, dtype=np.float32)
    result = Result(0, "s2st", "fra", best.text, best.tokens, n_best=[best], audio=speech, sampling_rate=16_000)
    engine = SimpleNamespace(generate=lambda requests: [result])
    monkeypatch.setattr(Engine, "from_pretrained", lambda *args, **kwargs: engine)
    return result


@pytest.mark.parametrize("name", ["-", "/dev/fd/{}", "link.flac"])
def test_translate_prints_the_text_on_stderr_when_audio_goes_to_stdout(
    name: str,
    answer: Result,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    os.symlink("redirected", tmp_path / "link.flac")
    with open(tmp_path / "redirected", "wb") as file, monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setattr(sys, "stdout", io.TextIOWrapper(file))
        assert main([*COMMAND, "--task", "s2st", "--output_path", name.format(file.fileno())]) == 0
    assert answer.audio is not None
    assert (tmp_path / "redirected").read_bytes() == encode_audio(name, answer.audio, 16_000)
    assert answer.text in capsys.readouterr().err.splitlines()


def test_translate_refuses_to_write_audio_to_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main([*COMMAND, "--task", "s2st", "--output_path", "-"]) == 2
    assert "audio is not written to a terminal" in capsys.readouterr().err


def test_translate_prints_the_text_when_the_audio_cannot_be_written(answer: Result, capsys: pytest.CaptureFixture[str]):
    assert main([*COMMAND, "--task", "s2st", "--output_path", "/dev/full"]) == 1
    out, err = capsys.readouterr()
    assert out == f"{answer.text}\n"
    assert err.endswith("the speech could not be written to /dev/full: No space left on device\n")


@pytest.mark.usefixtures("answer")
def test_translate_writes_the_audio_when_the_text_cannot_be_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        assert main([*COMMAND, "--task", "s2st", "--output_path", str(tmp_path / "out.wav")]) == 1
    assert soundfile.info(tmp_path / "out.wav").frames > 0
    assert "stdout cannot be written: No space left on device" in capsys.readouterr().err


def test_translate_warns_that_a_text_was_cut_off(answer: Result, capsys: pytest.CaptureFixture[str]):
    answer.finish_reason = "length"
    assert main([*COMMAND, "--task", "asr"]) == 0
    assert "the text was cut off after 2 tokens: raise --max_new_tokens" in capsys.readouterr().err
