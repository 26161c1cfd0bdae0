"""The speech recognition pipeline: how it reads, mixes and cuts clips of every kind."""

from __future__ import annotations

import contextlib
import functools
import io
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from seamless_engine import AudioError, SeamlessError, UsageError
from seamless_engine.audio_output import write_audio
from seamless_engine.inputs import tokenizer
from support.audio import clip
from support.hf import ASR, SPOKEN, recognizer

Checkpoint = Callable[..., Path]
LANGUAGE: dict[str, Any] = {"generate_kwargs": {"tgt_lang": SPOKEN}}


@pytest.fixture
def asr(checkpoint: Checkpoint) -> Any:
    return recognizer(checkpoint(0))


def test_recognizer_reads_clips_of_every_kind(asr: Any, tmp_path: Path) -> None:
    samples = (np.round(clip(7, 1.3) * 2**15) / 2**15).astype(np.float32)  # exact in 16 bits
    expected = asr(samples)
    assert expected["text"]
    path = tmp_path / "clip.wav"
    write_audio(path, samples, 16_000)
    for audio in (
        path,
        str(path),
        path.read_bytes(),
        torch.from_numpy(samples),
        {"raw": samples, "sampling_rate": 16_000},
        {"array": samples, "sampling_rate": 16_000, "path": None},
    ):
        assert asr(audio) == expected
    assert asr([path, samples]) == asr((path, samples)) == [expected, expected]
    assert asr([]) == []
    with served(tmp_path) as address:
        assert asr(f"{address}/clip.wav") == expected
        for wrong in ("missing.wav", "a b.wav", "closes"):
            with pytest.raises(AudioError, match=rf"{wrong} cannot be fetched"):
                asr(f"{address}/{wrong}")


def test_recognizer_averages_channels_and_returns_other_keys_as_transformers(checkpoint: Checkpoint, asr: Any) -> None:
    reference: Any = transformers.pipeline(ASR, model=str(checkpoint(0)))
    left, right = clip(3, 1.3), clip(4, 1.3)
    stereo = np.stack([left, right])
    for make in (
        lambda: left[None],
        lambda: stereo,
        lambda: {"raw": left[None], "sampling_rate": 16_000},
        lambda: {"array": stereo, "sampling_rate": 16_000, "id": 7, "path": "no/such/file"},
        lambda: {"array": torch.from_numpy(stereo), "sampling_rate": 16_000},
        lambda: [{"array": left, "sampling_rate": 16_000, "id": "a"}, {"array": right, "sampling_rate": 16_000}],
    ):
        assert asr(make()) == reference(make(), **LANGUAGE)
    pcm = (stereo * 32767).astype(np.int16)
    assert asr(pcm) == asr(pcm.astype(np.float32) / 32768)
    entry = {"array": left, "sampling_rate": np.int64(16_000), "text": "what was said"}
    assert asr(entry) == asr(left)  # the text in the entry does not replace the answer
    assert set(entry) == {"array", "sampling_rate", "text"}


CUT = {"chunk_length_s": 0.6, "stride_length_s": 0}


@pytest.mark.parametrize("cut", [{}, CUT], ids=["uncut", "cut"])
def test_recognizer_raises_for_a_bad_clip_after_the_answers_before_it(
    asr: Any, tmp_path: Path, cut: dict[str, Any]
) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if size == 0:
                return b""
            raise RuntimeError("the disk is gone")

    good = clip(2, 1.3)
    expected = asr(good, **cut)
    for bad, kind, message in (
        (str(tmp_path / "missing.wav"), AudioError, r"missing\.wav cannot be read"),
        (b"no audio", AudioError, "audio bytes"),
        ("http://[bad/a.wav", AudioError, "cannot be fetched"),
        ({"raw": good}, UsageError, "needs its sampling_rate"),
        (Broken(), SeamlessError, "the disk is gone"),
        (np.zeros((2, 10), np.float32), AudioError, "at least"),
    ):
        answers = asr((source for source in (good, good, bad, good)), **cut)
        assert [next(answers), next(answers)] == [expected] * 2
        with pytest.raises(kind, match=f"^clip 2: .*{message}"):
            next(answers)


@pytest.mark.parametrize("cut", [{}, CUT], ids=["uncut", "cut"])
def test_recognizer_reads_clips_as_the_engine_does(asr: Any, tmp_path: Path, cut: dict[str, Any]) -> None:
    samples = (np.round(clip(7, 1.3) * 2**15) / 2**15).astype(np.float32)
    path = tmp_path / "clip.wav"
    write_audio(path, samples, 16_000)
    main, readers = threading.current_thread(), set()

    class Watched(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            readers.add(threading.current_thread())
            return super().read(size)

    file = Watched(path.read_bytes())
    file.seek(100)
    assert asr([file, samples, file], **cut) == asr([samples] * 3, **cut)
    assert file.tell() == 100
    assert readers and main not in readers
    long = np.zeros(int(16_000 * (asr.model.engine.options.max_audio_seconds + 1)), np.int16)
    with pytest.raises(AudioError, match=r"clip 0: .*lasts longer than 600 s"):
        asr(long, **cut)


@pytest.mark.parametrize("cut", [{}, CUT], ids=["uncut", "cut"])
def test_recognizer_warns_of_channels_that_cancel_each_other(asr: Any, cut: dict[str, Any]) -> None:
    samples = clip(3, 1.3)
    for source in (np.stack([samples, -samples]), torch.from_numpy(np.stack([samples, -samples]))):
        with pytest.warns(UserWarning, match="clip 0: the channels of the audio array cancel each other"):
            asr({"raw": source, "sampling_rate": 16_000}, **cut)


def test_recognizer_decodes_the_tokens_of_all_chunks_together(asr: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = clip(5, 1.3)
    expected = asr(samples, **CUT)
    monkeypatch.setattr(tokenizer, "open_vocabulary", None)
    assert asr(samples, **CUT) == expected


@pytest.mark.filterwarnings("ignore:chunk_length_s")
@pytest.mark.parametrize(
    "cut", [{"chunk_length_s": 30}, {"chunk_length_s": 0.8}, {"chunk_length_s": 1, "stride_length_s": (0.3, 0.1)}]
)
def test_recognizer_cuts_long_clips_as_transformers(checkpoint: Checkpoint, asr: Any, cut: dict[str, Any]) -> None:
    reference: Any = transformers.pipeline(ASR, model=str(checkpoint(0)))
    samples = {"raw": clip(5, 2.6), "sampling_rate": 16_000, "id": 1}
    assert asr(dict(samples), **cut) == reference(dict(samples), **cut, **LANGUAGE)


def test_recognizer_warns_of_overlapping_chunks_only(asr: Any, recwarn: pytest.WarningsRecorder) -> None:
    samples = clip(5, 1.3)
    asr(samples, chunk_length_s=np.float32(0.5), stride_length_s=0)
    asr(samples, chunk_length_s=0)
    asr(samples, chunk_length_s=1, ignore_warning=True)
    assert not [warning for warning in recwarn if "chunk_length_s" in str(warning.message)]
    with pytest.warns(UserWarning, match="come twice"):
        asr(samples, chunk_length_s=1)
    for cut in ({"chunk_length_s": 1, "stride_length_s": 0.5}, {"chunk_length_s": -1}, {"chunk_length_s": "30"}):
        with pytest.raises(UsageError, match="chunk_length_s"):
            asr(samples, **cut)


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a web server on this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            if self.path == "/closes":
                self.close_connection = True  # does not answer
            else:
                super().do_GET()

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
