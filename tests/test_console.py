"""The process of a command: streams that are closed, full or of another encoding, signals, imports of torch."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from seamless_engine import console
from seamless_engine.errors import InputError, UsageError

DEMO = Path(__file__).resolve().parents[1] / "demo"
COMMAND = [sys.executable, "-m", "seamless_engine"]
LANGUAGES = [*COMMAND, "languages", "--model", str(DEMO / "checkpoint")]
T2TT = "--task t2tt --src_lang fra --tgt_lang eng --model".split() + [str(DEMO / "checkpoint")]


def shell(redirection: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", f'"$@" {redirection}', "sh", *words], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("redirection", "code", "message"),
    [
        (">&-", 1, "stdout cannot be written: it is closed."),
        ("> /dev/full", 1, "stdout cannot be written: No space left on device"),
        ("2>&-", 0, ""),
        ("2> /dev/full", 0, ""),
        ("<&- >&- 2>&-", 1, ""),
    ],
)
def test_run_ends_without_a_traceback_on_a_full_stream(redirection: str, code: int, message: str):
    done = shell(redirection, *LANGUAGES)
    assert done.returncode == code
    assert done.stderr.startswith(f"seamless-engine: {message}" if message else "")
    assert done.stderr.count("\n") == bool(message)


@pytest.mark.parametrize("redirection", ["2>&-", "2> /dev/full"])
def test_run_returns_the_exit_code_of_a_failure_that_cannot_be_printed(redirection: str):
    assert shell(redirection, *COMMAND, "translate", "x", *T2TT, "--tgt_lang", "xxx").returncode == 2


def test_run_ends_quietly_when_the_reader_of_stdout_ends():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(LANGUAGES, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_translate_exits_with_2_for_a_closed_stdin():
    done = shell("<&-", *COMMAND, "translate", "-", *T2TT)
    assert done.returncode == 2 and "stdin is closed" in done.stderr and "Traceback" not in done.stderr


def test_run_keeps_output_for_a_closed_stream_out_of_files(tmp_path: Path):
    code = (
        "import os\nfrom seamless_engine import console\n"
        "def command():\n"
        "    with open('file', 'w') as file:\n"
        "        os.write(2, b'output of a library')\n"
        "        file.write('content')\n"
        "    return 0\n"
        "raise SystemExit(console.run(command))"
    )
    done = subprocess.run(["sh", "-c", '"$@" <&- 2>&-', "sh", sys.executable, "-c", code], cwd=tmp_path)
    assert done.returncode == 0 and (tmp_path / "file").read_text() == "content"


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_run_ends_in_one_line_on_a_signal_during_an_import(number: signal.Signals, code: int, word: str):
    words = [*COMMAND, "translate", "six cent", *T2TT]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("loading ")
        process.send_signal(number)
        out, err = process.communicate()
    assert (process.returncode, out, err) == (code, "", f"seamless-engine: {word}\n")


def test_run_recognises_a_signal_that_an_import_turns_into_another_error(capsys: pytest.CaptureFixture[str]):
    def command() -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise ImportError("initialization failed") from None
        return 0

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert console.run(command, own_process=True) == 143
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert capsys.readouterr().err == "seamless-engine: terminated\n"


def test_run_keeps_ignored_signals_ignored():
    code = (
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nfrom seamless_engine import console\n"
        "def command():\n    signal.raise_signal(signal.SIGINT)\n    return 7\n"
        "raise SystemExit(console.run(command, own_process=True))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 7


def test_main_does_not_import_torch_for_help_version_languages_and_refusals():
    model = str(DEMO / "checkpoint")
    for words, code in (
        (["--help"], 0),
        (["--version"], 0),
        (["languages", "--model", model], 0),
        (["translate", "x", *T2TT, "--tgt_lang", "xxx"], 2),
        (["translate", "no.wav", "--task", "s2st", "--tgt_lang", "fra", "--output_path", "x.wav", "--model", model], 1),
    ):
        script = (
            "import sys\nfrom seamless_engine.cli import main\n"
            "try: code = main(sys.argv[1:])\nexcept SystemExit as stop: code = stop.code\n"
            "assert 'torch' not in sys.modules\nsys.exit(code)"
        )
        done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)
        assert done.returncode == code, done.stderr


def test_run_escapes_letters_that_the_encoding_of_stdout_lacks(monkeypatch: pytest.MonkeyPatch):
    for errors, written in (
        ("strict", b"n\\xe9 \\u4f60\n"),
        ("surrogateescape", b"n\\xe9 \\u4f60\n"),
        ("replace", b"n? ?\n"),
    ):
        stdout = io.TextIOWrapper(io.BytesIO(), "ascii", errors)
        monkeypatch.setattr(sys, "stdout", stdout)
        assert console.run(lambda: console.emit("né 你") or 0) == 0
        assert stdout.buffer.getvalue() == written  # pyright: ignore[reportAttributeAccessIssue]


def stdin(monkeypatch: pytest.MonkeyPatch, content: bytes, encoding: str = "utf-8") -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding))


def test_read_text_uses_the_encoding_of_stdin_and_refuses_other_bytes(monkeypatch: pytest.MonkeyPatch):
    stdin(monkeypatch, "\ufeff né\r\n".encode())
    assert console.read_text() == "né"
    stdin(monkeypatch, b"n\xe9\n", "latin-1")
    assert console.read_text() == "né"
    stdin(monkeypatch, b"n\xe9\n")
    with pytest.raises(InputError, match="stdin is not utf-8 text, at byte 1"):
        console.read_text()
    stdin(monkeypatch, b"")
    with pytest.raises(InputError, match="stdin is empty"):
        console.read_bytes()
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="stdin is closed"):
        console.read_bytes()


def test_run_prints_an_unexpected_error_in_one_line_without_debugging(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def command() -> int:
        console.log_to_stderr("a package")
        try:
            raise TypeError("first\n  second")
        except TypeError:
            logging.getLogger("a package").exception("the log's line")
            raise

    assert console.run(command) == 1
    err = capsys.readouterr().err
    assert err.startswith("the log's line\nseamless-engine: unexpected TypeError: first second. Please report this")
    assert err.count("\n") == 2
    monkeypatch.setenv("SEAMLESS_DEBUG", "1")
    assert console.run(command) == 1
    assert capsys.readouterr().err.count("Traceback") == 2
