"""The pipelines: what transformers' give, for every kind of input."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from seamless_engine import AudioError, UsageError, hf
from seamless_engine.audio_output import write_audio
from support.audio import clip
from support.hf import SPOKEN, ours, processor, theirs
from support.parity import TEXTS
from tolerance import WAVEFORM_ATOL

Checkpoint = Callable[..., Path]
ASR = "automatic-speech-recognition"
LANGUAGE: dict[str, Any] = {"generate_kwargs": {"tgt_lang": SPOKEN}}


@pytest.fixture
def asr(checkpoint: Checkpoint) -> Any:
    return hf.pipeline(
        ASR, model=ours("SeamlessM4Tv2ForSpeechToText", checkpoint(0)), generate_kwargs={"tgt_lang": SPOKEN}
    )


def test_the_pipeline_gives_the_text_of_transformers(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    clips = [clip(seed, 1.3) for seed in range(4, 8)]
    kwargs: dict[str, Any] = {"generate_kwargs": {"tgt_lang": SPOKEN}}
    reference: Any = transformers.pipeline(ASR, model=str(folder))
    found = hf.pipeline(ASR, model=folder, device=-1)
    expected = [reference(samples, **kwargs) for samples in clips]
    assert found(clips, **kwargs, batch_size=2) == expected
    assert found(clips[0], **kwargs) == expected[0]
    assert len({entry["text"] for entry in expected}) > 1
    greedy = reference(clips[0], generate_kwargs={"tgt_lang": SPOKEN, "num_beams": 1})
    assert found(clips[0], tgt_lang=SPOKEN, num_beams=1) == greedy


def test_the_pipeline_reads_clips_of_every_kind(asr: Any, tmp_path: Path) -> None:
    samples = (np.round(clip(7, 1.3) * 2**15) / 2**15).astype(np.float32)  # what 16 bits can hold
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
        with pytest.raises(ValueError, match=r"missing\.wav"):
            asr(f"{address}/missing.wav")


def test_the_pipeline_refuses_what_it_does_not_do(checkpoint: Checkpoint, asr: Any) -> None:
    folder = checkpoint(0)
    with pytest.raises(UsageError, match="text-generation"):
        hf.pipeline("text-generation", model=folder)
    with pytest.raises(UsageError, match="model is missing"):
        hf.pipeline(ASR)
    with pytest.raises(UsageError, match="SeamlessM4Tv2ForSpeechToText"):
        hf.pipeline(ASR, model=ours("SeamlessM4Tv2ForTextToText", folder))
    with pytest.raises(UsageError, match="no such task any more"):
        hf.pipeline("translation_en_to_fr", model=folder)
    with pytest.raises(UsageError, match="tgt_lang"):
        hf.pipeline(ASR, model=ours("SeamlessM4Tv2Model", folder))(clip(1))
    for arguments in (
        {"return_timestamps": True},
        {"return_language": True},
        {"num_beem": 2},
        {"num_return_sequences": 2},
    ):
        with pytest.raises(UsageError, match=next(iter(arguments))):
            asr(clip(1), **arguments)
    with pytest.raises(UsageError, match="stride"):
        asr({"raw": clip(1), "sampling_rate": 16_000, "stride": (1, 1)})
    with pytest.raises(ValueError, match="clip 1: .*no samples"):
        asr([clip(1), np.zeros(0, np.float32)])
    with pytest.raises(UsageError, match="needs its sampling_rate"):
        asr({"raw": clip(1)})
    with pytest.raises(UsageError, match="transpose"):
        asr(np.zeros((30_000, 2), np.float32))
    with pytest.raises(UsageError, match="not int"):
        asr(3)
    with pytest.raises(UsageError, match="sampling_rate of 8000"):
        hf.pipeline(ASR, model=asr.model, feature_extractor=SimpleNamespace(sampling_rate=8000))


class Rows(torch.utils.data.Dataset[Any]):
    """A data set without an iterator, like transformers' KeyDataset."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]


def test_the_pipeline_draws_from_generators_and_data_sets(checkpoint: Checkpoint, asr: Any) -> None:
    clips = [clip(seed, 0.4 + 0.3 * (seed % 3)) for seed in range(6)]  # texts of several lengths
    reference: Any = transformers.pipeline(ASR, model=str(checkpoint(0)))
    expected = asr(clips)
    assert [reference(samples, **LANGUAGE) for samples in clips] == expected
    for rows in ((samples for samples in clips), iter(clips), Rows(clips)):
        answers = asr(rows)
        assert next(answers) == expected[0]
        assert list(answers) == expected[1:]
    endless = asr(clips[index % 6] for index in iter(int, 1))
    assert [next(endless) for _ in range(8)] == [expected[0]] * 8
    broken = asr(row for row in (clips[0], np.zeros(0, np.float32)))
    assert next(broken) == expected[0]
    with pytest.raises(AudioError, match="clip 1: .*no samples"):
        next(broken)


def test_channels_are_averaged_and_other_keys_come_back_as_in_transformers(checkpoint: Checkpoint, asr: Any) -> None:
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
    row = {"array": left, "sampling_rate": np.int64(16_000), "text": "what was said"}
    assert asr(row) == asr(left)  # the row's own text does not hide the answer
    assert set(row) == {"array", "sampling_rate", "text"}


@pytest.mark.filterwarnings("ignore:chunk_length_s")
@pytest.mark.parametrize(
    "cut", [{"chunk_length_s": 30}, {"chunk_length_s": 0.8}, {"chunk_length_s": 1, "stride_length_s": (0.3, 0.1)}]
)
def test_long_clips_are_cut_as_in_transformers(checkpoint: Checkpoint, asr: Any, cut: dict[str, Any]) -> None:
    reference: Any = transformers.pipeline(ASR, model=str(checkpoint(0)))
    samples = {"raw": clip(5, 2.6), "sampling_rate": 16_000, "id": 1}
    assert asr(dict(samples), **cut) == reference(dict(samples), **cut, **LANGUAGE)


def test_pieces_that_overlap_warn_and_others_do_not(asr: Any, recwarn: pytest.WarningsRecorder) -> None:
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


def test_a_pipeline_has_the_attributes_of_transformers(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    given = processor(folder)
    model = ours("SeamlessM4Tv2ForSpeechToText", folder)
    own = hf.pipeline(ASR, model=model)
    told = hf.pipeline(ASR, model=model, tokenizer=given.tokenizer, feature_extractor=given.feature_extractor)
    whole = hf.pipeline(ASR, model=model, processor=given, batch_size=8, use_fast=True)
    for made in (own, told, whole):
        assert made.feature_extractor.sampling_rate == 16_000
        assert made.tokenizer.get_vocab() == given.tokenizer.get_vocab()
        assert (made.task, made.model, made.device) == (ASR, model, torch.device("cpu"))
        assert made.dtype == made.torch_dtype == torch.float32
    assert told.tokenizer is whole.tokenizer is given.tokenizer


def test_a_pipeline_moves_the_model_it_is_given(checkpoint: Checkpoint) -> None:
    model = hf.SeamlessM4Tv2ForSpeechToText.from_pretrained(checkpoint(0), device="cpu")
    made = hf.pipeline(ASR, model=model, dtype="float16", device=-1)
    assert made.dtype == model.dtype == torch.float16
    assert hf.pipeline(ASR, model=str(checkpoint(0)), torch_dtype=torch.float16, device="cpu").dtype == torch.float16


def test_the_speaking_pipeline_gives_the_audio_of_transformers(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    parts: dict[str, Any] = {"tokenizer": processor(folder).tokenizer, "processor": processor(folder)}
    make: Any = transformers.pipeline
    reference = make("text-to-speech", theirs("SeamlessM4Tv2ForTextToSpeech", folder), **parts)
    found = hf.pipeline("text-to-speech", model=ours("SeamlessM4Tv2ForTextToSpeech", folder), **parts)
    for arguments in (
        {"forward_params": {"tgt_lang": SPOKEN}},
        {"forward_params": {"tgt_lang": "eng"}, "generate_kwargs": {"tgt_lang": SPOKEN, "speaker_id": 1}},
        {"preprocess_params": {"src_lang": "deu"}, "forward_params": {"tgt_lang": SPOKEN}},
    ):
        one, expected = found(TEXTS[0], **arguments), reference(TEXTS[0], **arguments)
        assert list(one) == list(expected) == ["audio", "sampling_rate"]
        assert one["sampling_rate"] == expected["sampling_rate"] == 16_000
        np.testing.assert_allclose(one["audio"], expected["audio"], atol=WAVEFORM_ATOL)
    alone = [found(sentence, **arguments)["audio"] for sentence in (TEXTS[0], TEXTS[2])]
    for sentences in ([TEXTS[0], TEXTS[2]], iter([TEXTS[0], TEXTS[2]])):
        many = found(sentences, **arguments, batch_size=2)
        for answer, audio in zip(many, alone, strict=True):
            np.testing.assert_array_equal(answer["audio"], audio)
    assert hf.pipeline("text-to-audio", model=folder, device="cpu").model.tasks == ("t2st",)


def test_the_speaking_pipeline_says_what_is_wrong(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    found = hf.pipeline("text-to-speech", model=ours("SeamlessM4Tv2Model", folder))
    for arguments, message in (
        ({}, "tgt_lang is missing"),
        ({"tgt_lang": SPOKEN, "num_beem": 2}, "num_beem"),
        ({"tgt_lang": SPOKEN, "num_beams": 2, "num_return_sequences": 2}, "num_return_sequences"),
        ({"tgt_lang": SPOKEN, "preprocess_params": {"max_length": 3}}, "max_length"),
    ):
        with pytest.raises(UsageError, match=message):
            found(TEXTS[0], **arguments)
    with pytest.raises(UsageError, match="text must be a string"):
        found([3], tgt_lang=SPOKEN)
    with pytest.raises(UsageError, match="SeamlessM4Tv2ForTextToSpeech"):
        hf.pipeline("text-to-speech", model=ours("SeamlessM4Tv2ForTextToText", folder))


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Address of a web server on this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
