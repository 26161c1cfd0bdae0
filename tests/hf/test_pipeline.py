"""The pipelines: results, arguments and attributes of transformers. `test_pipeline_clips.py` is about reading clips."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from seamless_engine import AudioError, Engine, UsageError, hf
from seamless_engine.hf import loading
from support.audio import clip
from support.hf import ASR, SPOKEN, ours, processor, recognizer, theirs
from support.parity import TEXTS
from tolerance import WAVEFORM_ATOL

Checkpoint = Callable[..., Path]
LANGUAGE: dict[str, Any] = {"generate_kwargs": {"tgt_lang": SPOKEN}}


@pytest.fixture
def asr(checkpoint: Checkpoint) -> Any:
    return recognizer(checkpoint(0))


def test_recognizer_equals_transformers(checkpoint: Checkpoint) -> None:
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


def test_recognizer_refuses_arguments_without_support(checkpoint: Checkpoint, asr: Any) -> None:
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


@pytest.mark.parametrize(
    ("task", "arguments", "message"),
    [
        (ASR, {"load_in_8bit": True}, r"EngineConfig\(int8="),
        (ASR, {"num_beem": 2}, "num_beem"),
        (ASR, {"generate_kwargs": {"num_beem": 2}}, "num_beem"),
        (ASR, {"return_timestamps": True}, "return_timestamps"),
        ("text-to-speech", {"forward_params": {"num_beem": 2}}, "num_beem"),
        ("text-to-speech", {"preprocess_params": {"max_length": 3}}, "max_length"),
        ("text-to-speech", {"device_mesh": 1}, "one device"),
    ],
)
def test_pipeline_refuses_unknown_arguments_before_it_loads(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, task: str, arguments: dict[str, Any], message: str
) -> None:
    models = [ours("SeamlessM4Tv2Model", checkpoint(0)), checkpoint(0)]
    monkeypatch.setattr(Engine, "from_pretrained", None)
    for model in models:
        with pytest.raises(UsageError, match=message):
            hf.pipeline(task, model=model, **arguments)


def test_pipeline_accepts_arguments_of_from_pretrained_and_generate(checkpoint: Checkpoint) -> None:
    asr = hf.pipeline(
        ASR,
        model=checkpoint(0),
        device="cpu",
        low_cpu_mem_usage=True,
        subfolder="",
        generation_config=transformers.GenerationConfig(max_new_tokens=3),
        tgt_lang=SPOKEN,
    )
    sample = clip(4, 1.3)
    assert asr(sample) == asr(sample, generation_config=None, max_new_tokens=3)


class DataSet(torch.utils.data.Dataset[Any]):
    """A data set without an iterator, like transformers' KeyDataset."""

    def __init__(self, entries: list[Any]) -> None:
        self.entries = entries

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Any:
        return self.entries[index]


def test_recognizer_pulls_from_generators_and_data_sets(checkpoint: Checkpoint, asr: Any) -> None:
    clips = [clip(seed, 0.4 + 0.3 * (seed % 3)) for seed in range(6)]  # texts of several lengths
    reference: Any = transformers.pipeline(ASR, model=str(checkpoint(0)))
    expected = asr(clips)
    assert [reference(samples, **LANGUAGE) for samples in clips] == expected
    for entries in ((samples for samples in clips), iter(clips), DataSet(clips)):
        answers = asr(entries)
        assert next(answers) == expected[0]
        assert list(answers) == expected[1:]
    endless = asr(clips[index % 6] for index in iter(int, 1))
    assert [next(endless) for _ in range(8)] == [expected[0]] * 8
    broken = asr(samples for samples in (clips[0], np.zeros(0, np.float32)))
    assert next(broken) == expected[0]
    with pytest.raises(AudioError, match="clip 1: .*no samples"):
        next(broken)


def test_pipeline_has_the_attributes_of_transformers(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    given = processor(folder)
    model = ours("SeamlessM4Tv2ForSpeechToText", folder)
    own = hf.pipeline(ASR, model=model)
    told = hf.pipeline(ASR, model=model, tokenizer=given.tokenizer, feature_extractor=given.feature_extractor)
    batched = hf.pipeline(ASR, model=model, processor=given, batch_size=8, use_fast=True)
    for made in (own, told, batched):
        assert made.feature_extractor.sampling_rate == 16_000
        assert made.tokenizer.get_vocab() == given.tokenizer.get_vocab()
        assert (made.task, made.model, made.device) == (ASR, model, torch.device("cpu"))
        assert made.dtype == made.torch_dtype == torch.float32
    assert told.tokenizer is batched.tokenizer is given.tokenizer


def test_pipeline_moves_a_loaded_model(checkpoint: Checkpoint) -> None:
    model = hf.SeamlessM4Tv2ForSpeechToText.from_pretrained(checkpoint(0), device="cpu")
    made = hf.pipeline(ASR, model=model, dtype="float16", device=-1)
    assert made.dtype == model.dtype == torch.float16
    for spelling in ("torch.bfloat16", "half", torch.float32):
        hf.pipeline(ASR, model=model, torch_dtype=spelling)
        assert model.dtype == loading.dtype_of(spelling, None, {})
        hf.pipeline(ASR, model=model, dtype="auto")
        assert model.dtype == loading.dtype_of(spelling, None, {})
    wrong: list[dict[str, Any]] = [{"dtype": "bogus"}, {"torch_dtype": "nn"}, {"dtype": "half", "torch_dtype": "float"}]
    for arguments in wrong:
        with pytest.raises(UsageError, match="dtype"):
            hf.pipeline(ASR, model=model, **arguments)
    assert hf.pipeline(ASR, model=str(checkpoint(0)), torch_dtype=torch.float16, device="cpu").dtype == torch.float16


def test_synthesizer_equals_transformers(checkpoint: Checkpoint) -> None:
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


def test_synthesizer_refuses_wrong_arguments(checkpoint: Checkpoint) -> None:
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
