"""`write_audio` writes the format of the suffix to a path of any kind, which keeps its links, mode and owner."""

from __future__ import annotations

import errno
import io
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from seamless_engine import audio_output
from seamless_engine.audio_output import check_output, encode_audio, write_audio
from seamless_engine.errors import UsageError

RATE = 16_000
TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)
WAV = encode_audio("out.wav", TONE, RATE)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_write_audio_creates_or_replaces_a_file_and_no_other(folder: Path):
    write_audio("out.wav", TONE, RATE)
    write_audio("out.wav", np.append(TONE, [2.0, -2.0]).astype(np.float32), RATE)
    samples, rate = soundfile.read("out.wav", dtype="float32")
    assert rate == RATE and samples[-2] > 0.999 and samples[-1] == -1
    np.testing.assert_allclose(samples[:-2], TONE, atol=1 / 32768)
    assert os.listdir(folder) == ["out.wav"]


@pytest.mark.parametrize(
    ("name", "container", "codec"),
    [
        ("out", "WAV", "PCM_16"),
        ("out.WAV", "WAV", "PCM_16"),
        ("v1.0/out", "WAV", "PCM_16"),
        ("out.flac", "FLAC", "PCM_16"),
        ("out.ogg", "OGG", "VORBIS"),
        ("out.Opus", "OGG", "OPUS"),
        ("out.mp3", "MP3", "MPEG_LAYER_III"),
    ],
)
@pytest.mark.parametrize("samples", [0, 1, RATE])
def test_write_audio_takes_the_format_from_the_suffix(name: str, container: str, codec: str, samples: int):
    os.mkdir("v1.0")
    write_audio(name, np.resize(TONE, samples), RATE)
    info = soundfile.info(name)
    assert (info.format, info.subtype, info.samplerate, info.channels) == (container, codec, RATE, 1)
    assert info.frames == max(samples, container != "WAV")


def test_write_audio_writes_a_long_clip_as_vorbis():
    write_audio("out.ogg", np.zeros(200 * RATE, np.float32), RATE)  # too many for one call of libvorbis
    assert soundfile.info("out.ogg").frames == 200 * RATE


@pytest.mark.parametrize("name", ["out.raw", "out.m4a", "out.txt", "out.wav.part"])
def test_write_audio_and_check_output_refuse_an_unknown_suffix(name: str):
    for refuse in (check_output, lambda path: write_audio(path, TONE, RATE)):
        with pytest.raises(UsageError, match=r"\.wav, \.flac, \.ogg, \.opus, \.mp3"):
            refuse(name)
    assert not os.path.exists(name)


def test_write_audio_refuses_a_format_that_libsndfile_lacks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(soundfile, "check_format", lambda container, codec: container != "MP3")
    with pytest.raises(UsageError, match=r"written as \.mp3. Use one of \.wav, \.flac, \.ogg, \.opus;"):
        check_output("out.mp3")


@pytest.mark.parametrize("exists", [True, False])
def test_write_audio_keeps_links_and_replaces_their_targets(exists: bool):
    os.makedirs("a/b")
    os.mkdir("c")
    if exists:
        Path("a/b/target.wav").write_text("old")
    os.symlink("b/target.wav", "a/second.wav")
    os.symlink("../a/second.wav", "c/first.wav")
    check_output("c/first.wav")
    write_audio("c/first.wav", TONE, RATE)
    assert os.readlink("c/first.wav") == "../a/second.wav" and os.readlink("a/second.wav") == "b/target.wav"
    assert Path("a/b/target.wav").read_bytes() == WAV
    assert [os.listdir(name) for name in ("c", "a/b")] == [["first.wav"], ["target.wav"]]


def test_write_audio_keeps_hard_links(folder: Path):
    Path("first.wav").write_text("old, and much longer than it would be if nothing were cut off" * 1000)
    os.link("first.wav", "second.wav")
    os.symlink("second.wav", "third.wav")
    for name in ("first.wav", "third.wav"):
        write_audio(name, TONE, RATE)
        assert Path("first.wav").read_bytes() == Path("second.wav").read_bytes() == WAV
        assert os.path.samefile("first.wav", "second.wav")
        Path("first.wav").write_text("old")
    assert sorted(os.listdir(folder)) == ["first.wav", "second.wav", "third.wav"]


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o755])
def test_write_audio_keeps_the_mode_of_a_file(mode: int):
    Path("out.wav").write_text("old")
    os.chmod("out.wav", mode)
    write_audio("out.wav", TONE, RATE)
    assert stat.S_IMODE(os.stat("out.wav").st_mode) == mode
    assert Path("out.wav").read_bytes() == WAV


def test_write_audio_gives_a_new_file_the_mode_of_the_umask():
    write_audio("out.wav", TONE, RATE)
    Path("plain").touch()
    assert os.stat("out.wav").st_mode == os.stat("plain").st_mode


def test_write_audio_keeps_the_owner_of_a_file_if_permitted(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def refuse(descriptor: int, user: int, group: int):
        asked.append((user, group))
        raise PermissionError

    Path("out.wav").write_text("old")
    monkeypatch.setattr(os, "fchown", refuse)
    write_audio("out.wav", TONE, RATE)
    assert asked == [(os.getuid(), os.getgid())]
    assert Path("out.wav").read_bytes() == WAV


def test_write_audio_writes_a_header_with_the_true_size_into_a_pipe():
    os.mkfifo("pipe.wav")
    received = []
    reader = threading.Thread(target=lambda: received.append(Path("pipe.wav").read_bytes()))
    reader.start()
    write_audio("pipe.wav", TONE, RATE)
    reader.join()
    assert received == [WAV]
    assert int.from_bytes(WAV[4:8], "little") == len(WAV) - 8
    assert stat.S_ISFIFO(os.stat("pipe.wav").st_mode)


def test_write_audio_writes_into_open_files_by_their_number(folder: Path):
    reader, writer = os.pipe()
    write_audio(f"/dev/fd/{writer}", TONE[:100], RATE)
    os.close(writer)
    with open(reader, "rb") as pipe:
        assert soundfile.info(io.BytesIO(pipe.read())).frames == 100
    with open("open.wav", "w+b") as file:
        os.symlink(f"/proc/self/fd/{file.fileno()}", "link")
        write_audio("link", TONE, RATE)
        assert file.read() == WAV  # of the file that was opened, not of another file with its name
    assert os.path.islink("link") and sorted(os.listdir(folder)) == ["link", "open.wav"]


def test_write_audio_leaves_a_device_a_device():
    null, full = os.stat("/dev/null"), os.stat("/dev/full")
    os.symlink("/dev/null", "null.wav")
    write_audio("null.wav", TONE, RATE)
    with pytest.raises(OSError) as caught:
        write_audio("/dev/full", TONE, RATE)
    assert caught.value.errno == errno.ENOSPC
    assert os.path.samestat(os.stat("/dev/null"), null) and os.path.samestat(os.stat("/dev/full"), full)
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode) and os.path.islink("null.wav")


def test_write_audio_refuses_a_disk(monkeypatch: pytest.MonkeyPatch):
    Path("disk").touch()
    disk = os.stat_result((stat.S_IFBLK | 0o660, *os.stat("disk")[1:]))
    monkeypatch.setattr(audio_output.os, "stat", lambda path: disk)
    with pytest.raises(UsageError, match="it is a disk"):
        check_output("disk")


def test_write_audio_writes_into_a_file_that_cannot_be_replaced(monkeypatch: pytest.MonkeyPatch, folder: Path):
    def refuse(*paths: str):
        raise OSError(errno.EBUSY, "a mount point")

    Path("out.wav").write_bytes(bytes(10**6))
    before = os.stat("out.wav")
    monkeypatch.setattr(os, "replace", refuse)
    write_audio("out.wav", TONE, RATE)
    assert Path("out.wav").read_bytes() == WAV and os.path.samestat(os.stat("out.wav"), before)
    assert os.listdir(folder) == ["out.wav"]


def test_write_audio_keeps_the_old_file_when_the_disk_is_full(monkeypatch: pytest.MonkeyPatch, folder: Path):
    def fail(*paths: str):
        raise OSError(errno.ENOSPC, "full")

    Path("out.wav").write_text("old")
    monkeypatch.setattr(os, "replace", fail)
    for name in ("out.wav", "new.wav"):
        with pytest.raises(OSError, match="full"):
            write_audio(name, TONE, RATE)
    assert os.listdir(folder) == ["out.wav"] and Path("out.wav").read_text() == "old"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder", "folder is a folder: name a file in it, such as folder/out.wav"),
        ("folder.wav", "folder.wav is a folder"),
        (".", "is a folder"),
        ("", "an empty path cannot be written: name a file"),
        ("no/such/out.wav", "the folder .*/no/such does not exist"),
        ("missing/", "the folder .*/missing does not exist"),
        ("file/out.wav", "Not a directory"),
        ("dangling.wav", "dangling.wav cannot be written: the folder .*/gone does not exist"),
        ("folder/dangling.wav", "the folder .*/gone does not exist"),
        ("loop.wav", "symbolic links"),
        ("nul\0.wav", "null"),
        ("a" * 300 + ".wav", "too long"),
    ],
)
def test_check_output_refuses_a_path_that_cannot_be_written(name: str, message: str, folder: Path):
    for made in ("folder", "folder.wav"):
        os.mkdir(made)
    Path("file").touch()
    os.symlink("gone/out.wav", "dangling.wav")
    os.symlink("../gone/out.wav", "folder/dangling.wav")
    os.symlink("loop.wav", "loop.wav")
    before = sorted(os.listdir(folder))
    for refuse in (check_output, lambda path: write_audio(path, TONE, RATE)):
        with pytest.raises(UsageError, match=message):
            refuse(name)
    assert sorted(os.listdir(folder)) == before


def test_check_output_reports_missing_permissions(monkeypatch: pytest.MonkeyPatch):
    Path("theirs.wav").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root has permission for everything
    for name, message in (("theirs.wav", "no permission to change it"), ("new.wav", "no permission to make a file")):
        with pytest.raises(UsageError, match=message):
            check_output(name)


def test_check_output_does_not_import_torch():
    code = "import sys, seamless_engine.audio_output; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
