"""Bad input fails its own request with an error that says what is wrong. All other results are bit-equal."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import random
import re
import resource
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from seamless_engine import AudioError, DecodingParams, Engine, EngineConfig, Request, Result, UsageError
from seamless_engine.inputs.preprocess import Preprocessor
from seamless_engine.request import SPEECH_IN, TASKS
from support.audio import clip_of_samples
from support.callers import assert_free
from support.checkpoint import write_changed
from support.parity import TEXTS, same

RATE = 16_000
CLIP = clip_of_samples(7, 9_000)
HEAD = "t2u_model.model.decoder.embed_tokens.weight"  # entry u + 4 is unit u, entry 2 is eos
ALL_TOKENS = tuple(range(310))
EOS_ID, UNKNOWN_ID, BAD_VOICE = 2, 225, 2  # the vocoder has an embedding for units 0 to 199


def speech(audio: Any = CLIP, task: str = "asr", lang: str = "eng", **fields: Any) -> Request:
    rate = RATE if isinstance(audio, np.ndarray) else None
    return Request(task, lang, audio=audio, sampling_rate=rate, **fields)


def text(content: str = TEXTS[2], task: str = "t2tt", lang: str = "fra", source: str = "eng", **fields: Any) -> Request:
    return Request(task, lang, text=content, src_lang=source, **fields)


def wav(samples: np.ndarray, rate: int = RATE, format: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, subtype="PCM_16")
    return file.getvalue()


def patched(content: bytes, at: int, value: bytes) -> bytes:
    return content[:at] + value + content[at + len(value) :]


def closed_file() -> io.BytesIO:
    file = io.BytesIO(b"RIFF")
    file.close()
    return file


WAV, FLAC = wav(CLIP), wav(CLIP, format="FLAC")
FORGED = {
    "a wav that announces 2 GB": (patched(WAV, 40, struct.pack("<I", 0x7FFE0000)), "truncated"),
    "a wav that announces a header of 2 GB": (patched(WAV, 16, struct.pack("<I", 0x7FFE0000)), "decoded|no samples"),
    "a flac that announces 2^36 samples": (patched(FLAC, 21, bytes([FLAC[21] | 0x0F]) + b"\xff" * 4), "truncated"),
    "a wav of 65535 channels": (patched(WAV, 22, b"\xff\xff"), "decoded|channels"),
}
GOOD = {
    "asr": speech(),
    "s2tt": speech(CLIP[:5_000], "s2tt", "hin", params=DecodingParams(num_beams=3)),
    "s2st": speech(task="s2st", lang="deu", speaker_id=1),
    "t2tt": text(TEXTS[1], params=DecodingParams(num_beams=4)),
    "t2st": text(TEXTS[3], "t2st", "spa"),
    "t2tt short": text("a", lang="cmn_Hant"),
}
# Requests that fail, and their error.
FAILING = {
    "an empty array": (speech(np.zeros(0, np.float32)), "has no samples"),
    "an empty file": (speech(b""), "is empty"),
    "NaN": (speech(np.where(np.arange(9_000) == 777, np.nan, CLIP)), "NaN, infinite"),
    "infinity": (speech(np.where(np.arange(9_000) == 777, np.inf, CLIP)), "NaN, infinite"),
    "10 ms": (speech(CLIP[:160]), "lasts 0.0100 s; at least 0.035 s"),
    "channels in an array": (speech(np.stack([CLIP, CLIP])), "one channel, or their average"),
    "a truncated wav": (speech(WAV[:-1_000]), "truncated"),
    "a web page": (speech(b"<html><body>404 Not Found</body></html>" * 30), "cannot be decoded as audio"),
    "no such file": (speech("no/such/clip.wav"), "no/such/clip.wav cannot be read: No such file"),
    **{name: (speech(content), message) for name, (content, message) in FORGED.items()},
    "an empty text": (text(""), "text is empty"),
    "a blank text": (text(" \n\t"), "text is empty"),
    "an invisible text": (text("\u200b"), "text is empty"),
    "20,000 characters": (text("ab " * 6_667), r"\d{5} tokens, more than EngineConfig.max_source_tokens=4096"),
    "more beams than max_num_seqs": (text(params=DecodingParams(num_beams=64)), "max_num_seqs"),
    "more tokens than allowed": (text(params=DecodingParams(max_new_tokens=5_000)), "EngineConfig.max_new_tokens=1024"),
    "nothing to choose": (text(params=DecodingParams(suppress_tokens=ALL_TOKENS)), "leave nothing to choose"),
    "nothing to choose for beams": (
        text(params=DecodingParams(num_beams=2, suppress_tokens=ALL_TOKENS)),
        "leave nothing to choose",
    ),
    "a closed file": (speech(closed_file()), "closed file"),
    "a voice of NaN": (text(task="t2st", speaker_id=BAD_VOICE), "NumericalError.*speech of this request is not finite"),
}
# Fields that no checkpoint can answer, and their error.
WRONG = {
    "an unknown task": (dict(task="summarise", tgt_lang="eng", text="a"), "'summarise': use one of asr, s2tt"),
    "no tgt_lang": (dict(task="asr", tgt_lang=None, audio=CLIP, sampling_rate=RATE), "asr needs tgt_lang"),
    "an empty tgt_lang": (dict(task="t2tt", tgt_lang="", text="a", src_lang="eng"), "t2tt needs tgt_lang"),
    "t2tt without src_lang": (dict(task="t2tt", tgt_lang="fra", text="a"), "t2tt needs src_lang"),
    "t2st without src_lang": (dict(task="t2st", tgt_lang="fra", text="a", src_lang=""), "t2st needs src_lang"),
    "text and audio": (dict(task="t2tt", tgt_lang="fra", text="a", src_lang="eng", audio=CLIP), "not both"),
    **{
        f"neither text nor audio for {task}": (
            dict(task=task, tgt_lang="fra", src_lang="eng"),
            f"{task} needs {'audio' if task in SPEECH_IN else 'text'}",
        )
        for task in TASKS
    },
    "a negative speaker": (dict(task="t2st", tgt_lang="fra", text="a", src_lang="eng", speaker_id=-1), "at least 0"),
}
# Requests that this checkpoint cannot answer, and their error.
REFUSED = {
    "an unknown language": (text(lang="frx"), "'frx'. Did you mean 'fra'.*has: cmn_Hant, deu, eng"),
    "an unknown source language": (text(source="klingon"), "'klingon'.*has: cmn_Hant, deu, eng"),
    "a language without a voice": (text(task="t2st", lang="rus"), "can write rus.*no voice.*one of: deu, eng, fra"),
    "a speaker out of range": (text(task="t2st", speaker_id=3), "speaker_id 3: this checkpoint has 0 to 2"),
    "a token out of range": (text(params=DecodingParams(suppress_tokens=(310,))), "310.*0 to 309"),
}
ONLY_EOS = DecodingParams(suppress_tokens=ALL_TOKENS[:3] + ALL_TOKENS[4:])
# Unusual requests that have answers.
ODD = {
    "8 kHz stereo int16": speech(wav(np.stack([CLIP[::2], CLIP[1::2]], axis=1), 8_000), "s2st", "fra"),
    "names of special tokens": text("</s> __fra__ <pad>", "t2st"),
    "an immediate end": text(task="t2st", params=ONLY_EOS),
    "an immediate end of beams": speech(task="s2st", params=dataclasses.replace(ONLY_EOS, num_beams=3)),
}


@pytest.fixture(scope="module")
def engine(checkpoint: Callable[[int], Path], tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Its third voice is NaN. It chooses a unit that the vocoder lacks for the first unit of the good "s2st"."""
    folder = tmp_path_factory.mktemp("changed_head") / "checkpoint"
    return load(write_changed(checkpoint(0), folder, changed_head(first_unit(checkpoint(0)), UNKNOWN_ID)))


@pytest.fixture(scope="module")
def expected(engine: Engine) -> dict[str, Result]:
    results = {name: engine.generate([request])[0] for name, request in (GOOD | ODD).items()}
    assert not any(result.error for result in results.values())
    return results


def load(folder: Path, **fields: Any) -> Engine:
    return Engine.from_pretrained(
        folder, device="cpu", options=EngineConfig(max_num_seqs=32, max_synthesis_tokens=100), **fields
    )


def first_unit(folder: Path) -> int:
    units = load(folder).generate([GOOD["s2st"]])[0].units
    assert units is not None
    return int(units[units > 3][0])


def changed_head(unit: int, index: int) -> Callable[[dict[str, torch.Tensor]], None]:
    """The unit head chooses `index` for every `unit`."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["vocoder.speaker_embedding.weight"][BAD_VOICE] = torch.nan
        tensors[HEAD][index] = 1.001 * tensors[HEAD][unit + 4]

    return change


def others_are_equal(results: dict[Any, Result], expected: dict[str, Result]) -> bool:
    return all(same(result, results[name]) for name, result in expected.items() if name in results)


def answers(engine: Engine, requests: dict[str, Request]) -> dict[str, Result]:
    return dict(zip(requests, engine.generate(list(requests.values())), strict=True))


def in_the_middle(bad: Request) -> dict[str, Request]:
    names = list(GOOD)
    return {name: GOOD[name] for name in names[:3]} | {"bad": bad} | {name: GOOD[name] for name in names[3:]}


@contextlib.contextmanager
def at_most(memory: int) -> Iterator[None]:
    """Allocations of more than `memory` bytes in total fail."""
    used = re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())
    assert used is not None
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int(used[1]) * 1024 + memory, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


@pytest.mark.parametrize("name", FAILING)
def test_generate_isolates_a_failing_request(name: str, engine: Engine, expected: dict[str, Result]) -> None:
    request, message = FAILING[name]
    results = answers(engine, in_the_middle(request))
    bad = results["bad"]
    assert bad.finish_reason == "error" and re.search(message, repr(bad.error)), bad.error
    assert bad.error is not None and bad.error.__traceback__ is bad.error.__context__ is None
    assert bad.audio is None and bad.units is None
    assert others_are_equal(results, expected)


@pytest.mark.parametrize("name", FORGED)
def test_generate_allocates_no_memory_for_forged_headers(name: str, engine: Engine) -> None:
    with at_most(256 << 20):
        [result] = engine.generate([speech(FORGED[name][0])])
    assert isinstance(result.error, AudioError)


@pytest.mark.parametrize("name", WRONG)
def test_request_refuses_wrong_fields(name: str) -> None:
    fields, message = WRONG[name]
    with pytest.raises(UsageError, match=message):
        Request(**fields)


def test_decoding_params_refuse_zero_beams() -> None:
    with pytest.raises(UsageError, match="num_beams must be between 1 and 64, not 0"):
        DecodingParams(num_beams=0)


@pytest.mark.parametrize("name", REFUSED)
def test_generate_refuses_and_stream_isolates_a_request_for_another_checkpoint(
    name: str, engine: Engine, expected: dict[str, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    request, message = REFUSED[name]
    with monkeypatch.context() as patch, pytest.raises(UsageError, match=message):
        patch.setattr(Preprocessor, "prepare", None)
        engine.generate([*GOOD.values(), request])
    requests = in_the_middle(request)
    results = dict(zip(requests, sorted(engine.stream(requests.values()), key=lambda one: one.id), strict=True))
    assert re.search(message, repr(results["bad"].error))
    assert others_are_equal(results, expected)


def test_generate_averages_and_resamples_8_khz_stereo_in_16_bit(engine: Engine, expected: dict[str, Result]) -> None:
    stereo = np.stack([CLIP[::2], CLIP[1::2]], axis=1)
    as_read = soundfile.read(io.BytesIO(wav(stereo, 8_000)), dtype="float32")[0]
    mono = Request("s2st", "fra", audio=as_read.mean(axis=1), sampling_rate=8_000)
    assert same(engine.generate([mono])[0], expected["8 kHz stereo int16"])


def test_generate_reads_a_long_text_completely(checkpoint: Callable[[int], Path]) -> None:
    options = EngineConfig(max_num_seqs=2, max_source_tokens=20_000)
    engine = Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["t2tt"], options=options)
    long = "ab " * 6_667  # 20,000 characters
    read: list[int] = []
    encode = engine.core.runner.encode_tokens
    assert encode is not None

    def spy(tokens: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
        read.append(len(tokens))
        return encode(tokens, cu_seqlens)

    engine.core.runner.encode_tokens = spy
    [result] = engine.generate([text(long, params=DecodingParams(max_new_tokens=3))])
    assert result.error is None and read == [len(engine.tokenizer.encode(long, "eng"))]


def test_generate_reads_names_of_special_tokens_as_text(engine: Engine, expected: dict[str, Result]) -> None:
    tokens = engine.tokenizer.encode("</s> __fra__ <pad>", "eng")
    specials = {0, 2, 3, *engine.config.text_lang_ids.values()}
    assert [at for at, token in enumerate(tokens) if token in specials] == [0, len(tokens) - 1]
    assert expected["names of special tokens"].error is None


@pytest.mark.parametrize("name", ["an immediate end", "an immediate end of beams"])
def test_generate_gives_empty_speech_for_a_text_that_ends_at_once(name: str, expected: dict[str, Result]) -> None:
    result = expected[name]
    assert (result.tokens, result.text, result.finish_reason) == ([3], "", "eos")
    assert result.audio is not None and result.audio.shape == (0,) and result.audio.dtype == np.float32
    assert result.units is not None and len(result.units) == 0


def test_generate_replaces_unknown_units_by_silence_and_warns(
    checkpoint: Callable[[int], Path], tmp_path: Path, engine: Engine, expected: dict[str, Result]
) -> None:
    unit = first_unit(checkpoint(0))
    ends = load(write_changed(checkpoint(0), tmp_path / "eos", changed_head(unit, EOS_ID)))
    as_eos, intact = ends.generate([GOOD["s2st"]])[0], load(checkpoint(0)).generate([GOOD["s2st"]])[0]
    result = expected["s2st"]
    assert same(result, as_eos) and not as_eos.warnings
    assert intact.units is not None and result.units is not None
    assert np.array_equal(result.units, np.where(intact.units == unit, 1, intact.units))
    assert result.warnings == [f"{(intact.units == unit).sum()} units that the vocoder does not have were left silent"]


@pytest.mark.parametrize("seed", range(3))
def test_generate_and_stream_isolate_all_failing_requests_in_one_batch(
    seed: int, engine: Engine, expected: dict[str, Result]
) -> None:
    rng = random.Random(seed)

    def shuffled(bad: dict[str, tuple[Request, str]]) -> list[Request]:
        requests = GOOD | ODD | {name: request for name, (request, _) in bad.items()}
        return [dataclasses.replace(requests[name], id=name) for name in rng.sample(list(requests), len(requests))]

    for bad, run in ((FAILING, engine.generate), (FAILING | REFUSED, engine.stream)):
        requests = shuffled(bad)
        results = {result.id: result for result in run(requests)}
        assert len(results) == len(requests)
        assert {name for name, result in results.items() if result.error} == set(bad)
        assert all(re.search(message, repr(results[name].error)) for name, (_, message) in bad.items())
        assert others_are_equal(results, expected)
        assert_free(engine)
