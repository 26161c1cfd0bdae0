"""Processes that decode audio give what a thread gives, and one that crashes, hangs or balloons loses one file."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seamless_engine import AudioError, EngineClosedError
from seamless_engine.inputs.audio_files import decode_file
from seamless_engine.inputs.decode_pool import DecodePool
from support.audio import clip
from support.callers import PATIENCE, beside
from support.files import encoded, encoded_media, tone
from support.processes import wait_for_end, workers

# In place of soxr in the processes: what it does depends on the sampling rate of the file.
DECODER = """
import os, signal, time, numpy

def hang():
    open(os.path.join(os.path.dirname(__file__), "hangs"), "w").close()  # a pipe: waits for its reader
    time.sleep(1e6)

def balloon():
    numpy.empty(1 << 31, numpy.uint8)

def fail():
    raise KeyError("rate")

DEEDS = {
    8000: lambda: os.kill(os.getpid(), signal.SIGSEGV),
    11025: hang,
    12000: balloon,
    22050: lambda: os.system("echo noise"),
    24000: lambda: os._exit(3),
    32000: fail,
}

class ResampleStream:
    def __init__(self, rate, *others, **options):
        DEEDS[rate]()

    def resample_chunk(self, block, last=False):
        return block
"""
GOOD = encoded(clip(0))
HANGS = encoded(clip(0), 11_025)


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    pool = DecodePool(2, PATIENCE)
    yield pool
    pool.close()


@pytest.fixture
def strange_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "soxr.py").write_text(DECODER)
    os.mkfifo(tmp_path / "hangs")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


Started = Callable[[], set[int]]


@pytest.fixture
def started(pool: DecodePool) -> Started:
    """The processes that a test has started itself."""
    before = workers(os.getpid())
    return lambda: workers(os.getpid()) - before


@pytest.fixture
def pool_of_one(strange_decoder: Path, started: Started) -> Iterator[DecodePool]:
    pool = DecodePool(1, PATIENCE)
    yield pool
    pool.close()
    assert not started()


def heard(decode: Callable[..., np.ndarray], audio: Any, max_seconds: float = 60.0) -> tuple[object, list[str]]:
    """The samples as bytes, or the error; and the warnings."""
    said: list[str] = []
    try:
        return decode(audio, max_seconds, said.append).tobytes(), said
    except Exception as error:
        return (type(error), str(error)), said


STEREO = np.stack([tone(44_100, 1.0), 0.5 * tone(44_100, 1.0, hertz=300.0)], axis=1)
FILES: dict[str, Callable[[], bytes]] = {
    "wav": lambda: encoded(clip(1)),
    "flac": lambda: encoded(STEREO, 44_100, "FLAC", "PCM_16"),
    "mp3": lambda: encoded(STEREO, 44_100, "MP3", "MPEG_LAYER_III"),
    "ogg": lambda: encoded(STEREO, 44_100, "OGG", "VORBIS"),
    "m4a": lambda: encoded_media(tone(44_100, 1.0), "ipod", "aac", 44_100),
    "ac3": lambda: encoded_media(tone(48_000, 1.0), "ac3", "ac3", 48_000),  # warns
    "cancelling": lambda: encoded(np.stack([clip(2), -clip(2)], axis=1)),  # warns
    "joined": lambda: encoded(clip(3)) + encoded(clip(4, 2.0), 8_000),
    "long": lambda: encoded(clip(5, 61.0)),
    "short": lambda: encoded(clip(6, 0.01)),
    "truncated": lambda: encoded(clip(7))[:-1000],
    "empty": lambda: b"",
    "text": lambda: b"no audio",
}


@pytest.mark.parametrize("name", FILES)
def test_decode_gives_what_a_thread_gives(pool: DecodePool, name: str, tmp_path: Path) -> None:
    content = FILES[name]()
    path = tmp_path / f"clip.{name}"
    path.write_bytes(content)
    file = io.BytesIO(content)
    for audio in (path, str(path), content, bytearray(content), memoryview(content), file):
        assert heard(pool.decode, audio) == heard(decode_file, audio)
    with path.open("rb") as opened:
        assert heard(pool.decode, opened) == heard(decode_file, opened)


def test_decode_refuses_paths_as_a_thread_does(
    pool: DecodePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard(pool.decode, GOOD)  # a process runs, in the folder from before
    monkeypatch.chdir(tmp_path)
    Path("clip.wav").write_bytes(GOOD)
    os.mkfifo("pipe")
    for path in ("clip.wav", "./clip.wav", "missing.wav", "a\0b", "\udcff.wav", "pipe", ".", "", tmp_path / "no.mp3"):
        assert heard(pool.decode, path) == heard(decode_file, path)
    Path("gone").mkdir()
    monkeypatch.chdir("gone")
    Path("../gone").rmdir()
    assert heard(pool.decode, "clip.wav") == heard(decode_file, "clip.wav")
    assert heard(pool.decode, 3) == heard(decode_file, 3)


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (8_000, "the audio bytes could not be decoded: the process that did so was ended by SIGSEGV"),
        (24_000, "the audio bytes could not be decoded: the process that did so ended with exit status 3"),
        (12_000, "the audio bytes could not be decoded: it takes far more memory"),
    ],
)
def test_a_decoder_that_crashes_or_balloons_loses_its_file_only(
    pool_of_one: DecodePool, rate: int, message: str
) -> None:
    for _ in range(2):
        with pytest.raises(AudioError, match=message):
            pool_of_one.decode(encoded(clip(0), rate), 60.0, pytest.fail)
        assert pool_of_one.decode(GOOD, 60.0, pytest.fail).tobytes() == clip(0).tobytes()


def test_a_fault_of_a_decoder_names_its_error(pool_of_one: DecodePool) -> None:
    with pytest.raises(RuntimeError, match="KeyError: 'rate'"):
        pool_of_one.decode(encoded(clip(0), 32_000), 60.0, pytest.fail)


def test_what_a_decoder_prints_is_no_reply(pool_of_one: DecodePool) -> None:
    assert pool_of_one.decode(encoded(clip(0), 22_050), 60.0, pytest.fail).tobytes() == clip(0).tobytes()


def test_a_decoder_that_hangs_is_ended_at_the_time_limit(strange_decoder: Path, started: Started) -> None:
    pool = DecodePool(1, 0.3)
    with pytest.raises(AudioError, match=r"could not be decoded within 0\.3 s"):
        pool.decode(HANGS, 60.0, pytest.fail)
    assert not started()
    pool.close()


def test_a_process_that_is_stopped_is_ended_at_the_time_limit(started: Started) -> None:
    pool = DecodePool(1, 2.0)
    for size in (10, 1 << 20):  # what a pipe holds, and more
        heard(pool.decode, GOOD)
        (process,) = started()
        os.kill(process, signal.SIGSTOP)
        with pytest.raises(AudioError, match="could not be decoded within 2 s"):
            pool.decode(bytes(size), 60.0, pytest.fail)
    assert pool.decode(GOOD, 60.0, pytest.fail).tobytes() == clip(0).tobytes()
    pool.close()


def test_a_process_that_is_killed_loses_its_file_only(
    pool_of_one: DecodePool, strange_decoder: Path, started: Started
) -> None:
    expected = heard(decode_file, GOOD)
    assert heard(pool_of_one.decode, GOOD) == expected
    (idle,) = started()
    os.kill(idle, signal.SIGKILL)
    wait_for_end(idle)
    assert heard(pool_of_one.decode, GOOD) == expected
    call = beside(heard, pool_of_one.decode, HANGS)
    (strange_decoder / "hangs").read_bytes()
    (busy,) = started()
    os.kill(busy, signal.SIGKILL)
    error = AudioError, "the audio bytes could not be decoded: the process that did so was ended by SIGKILL"
    assert call.result(PATIENCE)[0] == error
    assert heard(pool_of_one.decode, GOOD) == expected


def test_decode_uses_no_more_processes_than_it_may(started: Started) -> None:
    pool = DecodePool(2, PATIENCE)
    expected = heard(decode_file, GOOD)
    with ThreadPoolExecutor(8) as threads:
        assert all(found == expected for found in threads.map(lambda _: heard(pool.decode, GOOD), range(200)))
    assert 1 <= len(started()) <= 2
    pool.close()
    assert not started()


def test_close_ends_what_is_decoded(strange_decoder: Path, started: Started) -> None:
    pool = DecodePool(2, PATIENCE)
    heard(pool.decode, GOOD)
    call = beside(heard, pool.decode, HANGS)
    (strange_decoder / "hangs").read_bytes()
    pool.close()
    pool.close()
    assert call.result(PATIENCE)[0] == heard(pool.decode, GOOD)[0]
    with pytest.raises(EngineClosedError, match="was closed"):
        pool.decode(GOOD, 60.0, pytest.fail)
    assert not started()


def program(folder: Path, *steps: str) -> subprocess.Popen[str]:
    """A process that uses pools. It prints a line before each step, and waits for one."""
    (folder / "good.wav").write_bytes(GOOD)
    (folder / "hangs.wav").write_bytes(HANGS)
    text = """
import os, signal, sys, threading
sys.path.insert(0, sys.argv[1])
from seamless_engine.inputs.decode_pool import DecodePool

def decode(pool, name):
    return pool.decode(os.path.join(sys.argv[1], name), 60.0, print)

pool, other = DecodePool(2, 2.0), DecodePool(1, 2.0)
decode(pool, "good.wav")
decode(other, "good.wav")
"""
    text += "".join(f"print(flush=True)\nsys.stdin.readline()\n{step}\n" for step in steps)
    command = [sys.executable, "-c", text, str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)


def step(running: subprocess.Popen[str]) -> None:
    assert running.stdin is not None and running.stdout is not None
    running.stdin.write("\n")
    assert running.stdout.readline() == "\n"


@pytest.mark.parametrize("leaves", ["pass", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_no_process_outlives_that_of_the_engine(strange_decoder: Path, leaves: str) -> None:
    begin = 'threading.Thread(target=decode, args=(pool, "hangs.wav"), daemon=True).start()'
    with program(strange_decoder, begin, "del other", leaves) as running:
        assert running.stdout is not None and running.stdout.readline() == "\n"
        both = workers(running.pid)
        step(running)
        (strange_decoder / "hangs").read_bytes()
        step(running)
        left = workers(running.pid)
        assert (len(both), len(left)) == (2, 1)
        running.communicate("\n", timeout=PATIENCE)
    for process in both:
        wait_for_end(process)


def test_a_forked_child_leaves_the_processes_to_its_parent(strange_decoder: Path) -> None:
    fork = """child = os.fork()
if not child:
    del pool
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
decode(pool, "good.wav")"""
    with program(strange_decoder, fork, "pass") as running:
        assert running.stdout is not None and running.stdout.readline() == "\n"
        before = workers(running.pid)
        step(running)
        assert workers(running.pid) == before and len(before) == 2
        running.communicate("\n", timeout=PATIENCE)


def test_a_process_that_decodes_imports_no_torch() -> None:
    program = "import sys, seamless_engine.inputs.decode_worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=PATIENCE).returncode == 0
