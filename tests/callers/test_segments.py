"""Requests that are cut into segments, and requests that share a clip."""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from seamless_engine import (
    CapacityError,
    DeadlineError,
    DecodingParams,
    Engine,
    NumericalError,
    Request,
    Result,
    Segmentation,
    UsageError,
    intake,
)
from seamless_engine.inputs import audio
from seamless_engine.source import Clip, Clips, clip_key
from support.audio import clip
from support.callers import PATIENCE, assert_free, beside, heard, sentence
from support.parity import same

RATE = 16_000
SPANS = [(0.1, 0.9), (0.9, 2.0), (2.4, 3.3)]
SHORT = DecodingParams(max_new_tokens=6)
Span = tuple[float, float]


def cut(spans: list[Span], **fields: Any) -> Segmentation:
    return Segmentation(segmenter=lambda samples, rate: spans, **fields)


def long(task: str = "asr", spans: list[Span] = SPANS, seconds: float = 4.0, **fields: Any) -> Request:
    fields = {"segment": cut(spans), "params": SHORT} | fields
    return Request(task, "fra", audio=clip(7, seconds), sampling_rate=RATE, **fields)


def alone(engine: Engine, request: Request, spans: list[Span] = SPANS) -> list[Result]:
    parts = [request.audio[round(start * RATE) : round(end * RATE)] for start, end in spans]
    return engine.generate(
        [Request(request.task, "fra", audio=part, sampling_rate=RATE, params=request.params) for part in parts]
    )


@pytest.mark.parametrize("task", ["asr", "s2tt", "s2st"])
def test_a_segmented_result_is_its_segments_alone_joined(engine: Engine, task: str) -> None:
    request = long(task)
    parts = alone(engine, request)
    before, result, after = engine.generate([sentence(0), request, heard(3)])
    assert result.error is None and before.error is None and after.error is None
    assert [(one.start, one.end, one.text) for one in result.segments] == [
        (*span, part.text) for span, part in zip(SPANS, parts, strict=True)
    ]
    assert result.text == " ".join(part.text for part in parts if part.text)
    assert result.tokens == [token for part in parts for token in part.tokens]
    assert result.score == pytest.approx(np.average([p.score for p in parts], weights=[len(p.tokens) for p in parts]))
    assert result.audio_seconds == 4.0
    if task == "s2st":
        assert result.audio is not None and result.units is not None and result.sampling_rate == RATE
        assert np.array_equal(result.audio, np.concatenate([part.audio for part in parts if part.audio is not None]))
        assert np.array_equal(result.units, np.concatenate([part.units for part in parts if part.units is not None]))
    assert len(result.n_best) == 1 and result.n_best[0].text == result.text


def test_a_clip_without_speech_has_an_empty_text_and_a_reason(engine: Engine) -> None:
    for task in ("asr", "s2st"):
        result = engine.generate(long(task, []))
        assert (result.text, result.tokens, result.segments, result.finish_reason) == ("", [], [], "no_speech")
        assert result.error is None
    shared = list(engine.stream([long(spans=[]), heard(1)]))
    assert sorted(result.finish_reason == "no_speech" for result in shared) == [False, True]


def test_a_failing_segment_fails_its_request_alone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = engine.generate([heard(1), sentence(2)])
    store = engine.core.runner.decoder.store_encoder_states

    def poisoned(states: torch.Tensor, *others: Any) -> None:
        lengths = [len(part) for part in states.split(1)]
        assert lengths
        states = states.clone()
        states[5] = torch.nan  # of the first segment, which comes first
        store(states, *others)

    with monkeypatch.context() as patch:
        patch.setattr(engine.core.runner.decoder, "store_encoder_states", poisoned)
        failed, *others = engine.generate([long(), heard(1), sentence(2)])
    assert isinstance(failed.error, NumericalError) and failed.finish_reason == "error" and not failed.segments
    assert all(same(a, b) for a, b in zip(expected, others, strict=True))
    assert_free(engine)


def test_a_late_segmented_request_frees_all_of_its_segments(engine: Engine) -> None:
    spans = [(i / 10, i / 10 + 0.09) for i in range(30)]
    many = DecodingParams(max_new_tokens=1000, min_new_tokens=1000)
    result = engine.generate(long(spans=spans, timeout=0.3, params=many))
    assert isinstance(result.error, DeadlineError) and result.finish_reason == "cancelled"
    assert_free(engine)


def test_closing_a_stream_drops_the_segments_of_its_requests(engine: Engine) -> None:
    many = DecodingParams(max_new_tokens=1000, min_new_tokens=1000)
    results = engine.stream([sentence(0), long(params=many)])
    next(results)
    results.close()
    assert_free(engine)


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(0.5, 0.4)], "does not lie in the clip"),
        ([(0.0, 1.0), (0.9, 2.0)], "begins before the end"),
        ([(0.0, float("nan"))], r"must be \(start, end\)"),
        ([(0.0, 30.0)], "does not lie in the clip"),
        (3, "must return"),
    ],
)
def test_wrong_spans_of_a_segmenter_are_the_error_of_the_request(engine: Engine, spans: Any, message: str) -> None:
    wrong, right = engine.generate([long(spans=spans), heard(2)])
    assert isinstance(wrong.error, UsageError) and right.error is None
    with pytest.raises(UsageError, match=message):
        raise wrong.error


def test_a_segmenter_that_raises_is_the_error_of_the_request(engine: Engine) -> None:
    def raises(samples: np.ndarray, rate: int) -> list[Span]:
        samples[:] = 0.0  # its own
        raise KeyError("model")

    def exits(samples: np.ndarray, rate: int) -> Iterator[Span]:
        yield 0.0, 1.0
        sys.exit(3)

    wrong, exited, right = engine.generate(
        [*(long(segment=Segmentation(segmenter=one)) for one in (raises, exits)), heard(2)]
    )
    assert "the segmenter raised KeyError" in str(wrong.error) and right.error is None
    assert "the segmenter raised SystemExit" in str(exited.error)


def test_a_segmenter_may_be_an_object_without_a_hash(engine: Engine) -> None:
    @dataclass
    class Halves:
        seconds: float

        def __call__(self, samples: np.ndarray, rate: int) -> list[Span]:
            return [(0.0, self.seconds), (self.seconds, len(samples) / rate)]

    result = engine.generate(long(segment=Segmentation(segmenter=Halves(2.0))))
    assert result.error is None and [one.start for one in result.segments] == [0.0, 2.0]


def test_a_segmented_text_is_its_sentences_joined(engine: Engine) -> None:
    sentences = ["How far is it?", "It is near.", "Who are you?"]
    text = "{} {}\n\n{}".format(*sentences)
    request = Request("t2tt", "fra", text=text, src_lang="eng", segment=True, params=SHORT)
    parts = [engine.generate(Request("t2tt", "fra", text=one, src_lang="eng", params=SHORT)) for one in sentences]
    result = engine.generate(request)
    assert result.text == f"{parts[0].text} {parts[1].text}\n\n{parts[2].text}".strip()
    assert result.tokens == [token for part in parts for token in part.tokens]
    assert "empty" in str(engine.generate(Request("t2tt", "fra", text="\u200b", src_lang="eng", segment=True)).error)


def test_requests_in_flight_with_one_file_decode_and_encode_it_once(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clip.wav"
    soundfile.write(path, clip(3, 3.5), RATE)
    requests = [
        Request(task, lang, audio=audio_of, params=SHORT, segment=segment)
        for audio_of in (str(path), path)
        for segment in (None, cut(SPANS))
        for task, lang in (("asr", "fra"), ("s2tt", "deu"), ("s2st", "fra"))
    ]
    expected = [engine.generate(request) for request in requests]
    decoded, encoded = counted(engine, monkeypatch)
    results = engine.generate(requests)
    assert all(same(a, b) for a, b in zip(expected, results, strict=True))
    assert len(decoded) == 2  # to two greatest lengths
    assert sorted(encoded) == sorted([56_000, *(round((end - start) * RATE) for start, end in SPANS)])
    assert_free(engine)


def test_a_file_is_read_again_when_no_request_in_flight_has_it(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clip.wav"
    soundfile.write(path, clip(3, 1.0), RATE)
    first = engine.generate(Request("asr", "fra", audio=path, params=SHORT))
    soundfile.write(path, clip(4, 2.0), RATE)
    second = engine.generate(Request("asr", "fra", audio=path, params=SHORT))
    assert (first.audio_seconds, second.audio_seconds) == (1.0, 2.0)
    path.write_bytes(b"no audio")
    wrong = engine.generate([Request(task, "fra", audio=path, params=SHORT) for task in ("asr", "s2tt")])
    errors = [result.error for result in wrong]
    assert all("clip.wav" in str(error) for error in errors) and errors[0] is not errors[1]


def counted(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> tuple[list[object], list[int]]:
    """Fills with what is decoded, and the lengths of the waveforms that are encoded."""
    decoded: list[object] = []
    encoded: list[int] = []
    load, encode = audio.load_audio, engine.core.runner.encode_audio

    def decoding(source: object, *others: Any, **options: Any) -> torch.Tensor:
        decoded.append(source)
        return load(source, *others, **options)

    def encoding(clips: list[torch.Tensor]) -> torch.Tensor:
        encoded.extend(map(len, clips))
        return encode(clips)

    monkeypatch.setattr(audio, "load_audio", decoding)
    monkeypatch.setattr(engine.core.runner, "encode_audio", encoding)
    return decoded, encoded


def test_a_file_that_was_replaced_is_another_clip(engine: Engine, tmp_path: Path) -> None:
    path, other = tmp_path / "clip.wav", tmp_path / "other.wav"
    soundfile.write(path, clip(3, 1.0), RATE)
    soundfile.write(other, clip(4, 2.0), RATE)

    def requests() -> Iterator[Request]:
        yield Request("asr", "fra", audio=path, params=SHORT)
        os.replace(other, path)
        yield Request("asr", "fra", audio=path, params=SHORT)

    seconds = {result.id: result.audio_seconds for result in engine.stream(requests())}
    assert seconds[1] == 2.0


def test_generate_without_a_working_directory_reads_other_files(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    wrong, right = engine.generate([Request("asr", "fra", audio="clip.wav"), heard(1)])
    assert "clip.wav" in str(wrong.error) and right.error is None


def test_a_clip_is_freed_with_its_last_request(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    soundfile.write(path, clip(3, 3.5), RATE)
    clips, key = Clips(), clip_key(Request("asr", "fra", audio=path))
    held = [clips.take(key), clips.take(key)]
    assert held[0] is held[1] and held[0].shared
    source = held[0].source(held[0].samples(lambda _: torch.zeros(100), lambda _: None), 0, 100)
    source.enter(torch.zeros(3, 4))
    source.release()
    assert source.encoder_states is not None  # the other request may want them
    samples = weakref.ref(source.content)
    for one in held:
        clips.give_back(one)
    assert source.encoder_states is None and clips.take(key) is not held[0]
    gc.disable()
    try:
        del source, held, one
        assert samples() is None
    finally:
        gc.enable()


def test_a_source_is_released_while_another_request_looks_for_segments() -> None:
    shared, begun, go = Clip(), threading.Event(), threading.Event()
    shared.holders = 2
    samples = shared.samples(lambda _: torch.zeros(100), lambda _: None)
    source = shared.source(samples, 0, 100)

    def find() -> list[Any]:
        begun.set()
        assert go.wait(PATIENCE)
        return []

    reader = beside(shared.segments, Segmentation(), find)
    assert begun.wait(PATIENCE)
    shared.holders = 1
    source.release()  # in the engine's thread
    go.set()
    assert reader.result(PATIENCE) == []


def test_a_join_that_runs_out_of_memory_fails_its_request_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Result:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(intake, "join", full)
        several, silent, right = engine.generate([long(), long(spans=[]), heard(1)])
    assert isinstance(several.error, CapacityError) and isinstance(silent.error, CapacityError)
    assert right.error is None


def test_a_long_clip_that_is_not_cut_warns(engine: Engine) -> None:
    whole, cut_up = (
        engine.generate(long(seconds=21.0, segment=segment)) for segment in (False, cut([(0.0, 10.0), (10.0, 21.0)]))
    )
    assert any('segment="auto"' in warning for warning in whole.warnings)
    assert not any("segment=" in warning for warning in cut_up.warnings)


def test_segment_auto_leaves_short_clips_whole(engine: Engine) -> None:
    whole, auto = engine.generate([long(segment=None), long(segment="auto")])
    assert whole.tokens == auto.tokens and whole.text == auto.text
    assert [(one.start, one.end) for one in auto.segments] == [(0.0, 4.0)]


def test_what_cannot_be_segmented_is_refused_before_any_work(engine: Engine) -> None:
    with pytest.raises(UsageError, match='segment must be True, False, "auto" or Segmentation'):
        long(segment="often")
    with pytest.raises(UsageError, match="leave out segment"):
        engine.stream_audio(long("s2st"))


def test_segments_have_one_text_each(engine: Engine) -> None:
    two = DecodingParams(num_beams=2, num_return_sequences=2, max_new_tokens=6)
    several, whole = engine.generate([long(params=two), long(params=two, segment="auto")])
    assert isinstance(several.error, UsageError) and "num_return_sequences" in str(several.error)
    assert len(whole.n_best) == 2 and whole.error is None


def test_to_json_is_valid_json_for_segmented_and_failed_results(engine: Engine) -> None:
    results = engine.generate([long("s2st"), long(spans=[]), long(spans=[(3.0, 2.0)])])
    for result in results:
        result.timings["odd"] = float("inf")
        stored = json.loads(json.dumps(result.to_json(), allow_nan=False))
        assert stored["segments"] == [{"start": s.start, "end": s.end, "text": s.text} for s in result.segments]
        assert "audio" not in stored and stored["timings"]["odd"] is None
