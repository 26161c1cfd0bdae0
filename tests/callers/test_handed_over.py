"""Buffers, files and requests are their owner's again once the engine took them, and results are the caller's."""

from __future__ import annotations

import dataclasses
import io
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import pytest
import soundfile
import torch

from seamless_engine import AsyncEngine, DeadlineError, Engine, Request
from seamless_engine.handed_over import handed_over
from seamless_engine.model_inputs import Features, Tokens
from support.async_engine import run
from support.audio import clip
from support.callers import PATIENCE, beside, mixture, sentence
from support.parity import TEXTS, same


def encoded(samples: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format=kind)
    return file.getvalue()


def arrays() -> list[Any]:
    """What holds a clip in memory that its owner may change, each with what changes it."""
    wav = encoded(clip(1), "WAV")
    array, tensor, content = clip(1), torch.from_numpy(clip(1)), bytearray(wav)
    mapped, viewed, rows = clip(1), bytearray(wav), torch.from_numpy(clip(1)[:9600]).view(60, 160).clone()
    return [
        (array, 16_000, lambda: array.fill(0.5)),
        (tensor, 16_000, lambda: tensor.fill_(0.5)),
        (content, None, lambda: content.__setitem__(slice(None), bytes(len(content)))),
        ({"array": mapped, "sampling_rate": 16_000}, None, lambda: mapped.fill(0.5)),
        (memoryview(viewed), None, lambda: viewed.__setitem__(slice(None), bytes(len(viewed)))),
        (Features(rows, 60), None, lambda: rows.fill_(0.5)),
    ]


@pytest.fixture(params=[False, True], ids=["in turn", "ahead"])
def reads_ahead(request: pytest.FixtureRequest, engine: Engine) -> Iterator[None]:
    engine.thread.reads_ahead = request.param
    yield
    engine.thread.reads_ahead = False


@pytest.mark.usefixtures("reads_ahead")
def test_stream_copies_a_request_before_it_pulls_the_next(engine: Engine) -> None:
    expected = engine.generate([Request("asr", "fra", audio=audio, sampling_rate=rate) for audio, rate, _ in arrays()])

    def reused() -> Iterator[Request]:
        request = Request("asr", "fra", audio=b"")
        for audio, rate, change in arrays():
            request.audio, request.sampling_rate = audio, rate
            yield request
            change()
            request.task = request.tgt_lang = "nonsense"
            request.task, request.tgt_lang = "asr", "fra"

    found = sorted(engine.stream(reused()), key=lambda result: result.id)
    assert all(result.error is None for result in expected)
    assert all(same(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.usefixtures("reads_ahead")
def test_stream_reads_a_file_before_it_pulls_the_next_request(engine: Engine, tmp_path: Any) -> None:
    for i in range(4):
        (tmp_path / f"{i}.wav").write_bytes(encoded(clip(i), "WAV"))
    expected = engine.generate([Request("asr", "fra", audio=tmp_path / f"{i}.wav") for i in range(4)])

    def opened() -> Iterator[Request]:
        for i in range(4):
            with open(tmp_path / f"{i}.wav", "rb") as file:
                yield Request("asr", "fra", audio=file)

    found = sorted(engine.stream(opened()), key=lambda result: result.id)
    assert all(same(a, b) for a, b in zip(expected, found, strict=True))


def test_stream_copies_tokens_before_it_pulls_the_next_request(engine: Engine) -> None:
    ids = engine.preprocessor.tokenizer.encode(TEXTS[0], "eng")
    expected = engine.generate([Request("t2tt", "fra", text=Tokens(list(ids)))] * 2)

    def changed() -> Iterator[Request]:
        for _ in range(2):
            mine = Tokens(list(ids))
            yield Request("t2tt", "fra", text=mine)
            mine.ids[1:-1] = [5, 5]

    found = engine.stream(changed())
    assert all(same(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_generate_takes_one_file_object_in_many_requests_and_threads(engine: Engine, kind: str) -> None:
    content = encoded(clip(2, seconds=2.0), kind)
    languages = engine.languages("s2tt")
    expected = engine.generate([Request("s2tt", code, audio=content) for code in languages])
    file = io.BytesIO(content)
    file.seek(7)
    requests = [Request("s2tt", code, audio=file) for code in languages]
    calls = [beside(engine.generate, requests) for _ in range(3)]
    for call in calls:
        assert all(same(a, b) for a, b in zip(expected, call.result(PATIENCE), strict=True))

    async def shared() -> Any:
        async with AsyncEngine(engine, readers=4) as many:
            return [await many.generate(requests) for _ in range(2)]

    for found in run(shared()):
        assert all(same(a, b) for a, b in zip(expected, found, strict=True))
    assert file.tell() == 7 and not file.closed


def test_submit_has_copied_the_request_when_it_returns(engine: Engine) -> None:
    expected = engine.generate([Request("asr", "fra", audio=audio, sampling_rate=rate) for audio, rate, _ in arrays()])

    async def main() -> list[Any]:
        async with AsyncEngine(engine, readers=1) as shared:
            answers = []
            for audio, rate, change in arrays():
                answers.append(await shared.submit(Request("asr", "fra", audio=audio, sampling_rate=rate)))
                change()
            with io.BytesIO(encoded(clip(1), "WAV")) as file:
                answers.append(await shared.submit(Request("asr", "fra", audio=file)))
            return [await answer for answer in answers]

    *found, read = run(main())
    assert all(same(a, b) for a, b in zip(expected, found, strict=True))
    assert same(read, expected[2])


def test_audio_error_names_the_file_of_a_file_object(engine: Engine, tmp_path: Any) -> None:
    path = tmp_path / "noise.wav"
    path.write_bytes(b"no sound")
    with path.open("rb") as file, path.open() as text:
        binary, written = engine.generate([Request("asr", "fra", audio=one) for one in (file, text)])
    assert str(path) in str(binary.error) and str(path) in str(written.error)


class Lazy(dict[str, Any]):
    """As a mapping that decodes a column when it is looked at."""

    def items(self) -> Any:
        raise RuntimeError("the column cannot be decoded")


class Ends(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise SystemExit


def released() -> memoryview:
    view = memoryview(b"RIFF")
    view.release()
    return view


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.empty(16_000, device="meta"), "NotImplementedError: Cannot copy out of meta tensor"),
        (released, "ValueError: operation forbidden on released memoryview"),
        (lambda: Lazy(array=1), "RuntimeError: the column cannot be decoded"),
        (lambda: {"bytes": Ends(b"RIFF")}, "reading the audio file object raised SystemExit"),
    ],
    ids=["meta tensor", "memoryview", "mapping", "file in a mapping"],
)
def test_generate_isolates_audio_that_cannot_be_copied(engine: Engine, make: Callable[[], Any], message: str) -> None:
    requests = [sentence(0), Request("asr", "fra", audio=make()), sentence(1)]

    async def shared() -> Any:
        async with AsyncEngine(engine) as many:
            return [await many.generate(requests), [result async for result in many.stream(requests)]]

    for results in (engine.generate(requests), list(engine.stream(requests)), *run(shared())):
        first, failed, last = sorted(results, key=lambda result: result.id)
        assert (first.error, last.error) == (None, None) and str(failed.error).startswith(message)


def test_timeout_counts_the_reading_of_a_file_object(engine: Engine) -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            time.sleep(0.05)
            return super().read(size)

    late = Request("asr", "fra", audio=Slow(encoded(clip(1), "WAV")), timeout=0.04)
    [result] = engine.generate([late])
    assert isinstance(result.error, DeadlineError) and result.timings["total"] > 0.04
    with pytest.raises(DeadlineError):
        list(engine.stream_audio(dataclasses.replace(late, task="s2st")))


def test_handed_over_of_a_blocked_file_delays_no_other_file() -> None:
    reads, opened = threading.Event(), threading.Event()

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            reads.set()
            assert opened.wait(PATIENCE)
            return super().read(size)

    slow = Request("asr", "fra", audio=Slow(b"RIFF"))
    calls = [beside(handed_over, slow) for _ in range(2)]
    assert reads.wait(PATIENCE)
    files = [io.BytesIO(bytes([i % 256])) for i in range(2000)]
    others = beside(lambda: [handed_over(Request("asr", "fra", audio=file)).audio.read() for file in files])
    assert others.result(PATIENCE) == [file.getvalue() for file in files]
    opened.set()
    assert [call.result(PATIENCE).audio.read() for call in calls] == [b"RIFF", b"RIFF"]


def test_results_share_no_memory_with_the_engine(engine: Engine) -> None:
    requests = mixture(0)
    expected = engine.generate(requests)
    for result in engine.generate(requests):
        for array in (result.audio, result.units):
            if array is not None:
                array.fill(1)
        result.tokens.clear()
    engine.languages("t2tt").clear()
    engine.weight_bytes.clear()
    for piece in engine.stream_audio(cast(Request, sentence(0, "t2st"))):
        piece.fill(1.0)
    assert all(same(a, b) for a, b in zip(expected, engine.generate(requests), strict=True))
    assert engine.languages("t2tt") and engine.weight_bytes
