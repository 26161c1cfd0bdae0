"""`Engine.stream_audio`: the samples of `generate`, a piece at a time; however it ends, it holds nothing afterwards."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seamless_engine import DecodingParams, Engine, EngineConfig, Request, Result
from seamless_engine.errors import CapacityError, DeadlineError, InputError, NumericalError, UsageError
from seamless_engine.models.text_decoder import NextTokens
from support.audio import clip
from support.callers import assert_free
from support.parity import TEXTS, same

Checkpoint = Callable[[int], Path]
Pieces = Generator[np.ndarray, None, Result]
WINDOW = 30


def engine_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine whose vocoder has small windows, so that a clip of a few words has several."""
    engine = Engine.from_pretrained(folder, device="cpu", options=EngineConfig(max_num_seqs=8))
    monkeypatch.setattr(engine.core.runner.vocoder, "window", WINDOW)
    return engine


def drain(pieces: Pieces) -> tuple[list[np.ndarray], Result]:
    found = []
    while True:
        try:
            found.append(next(pieces))
        except StopIteration as end:
            return found, end.value


def speech_request(text: str, **params: Any) -> Request:
    return Request("t2st", "fra", text=text, src_lang="eng", params=DecodingParams(**params))


@pytest.mark.parametrize("seed,window", [(0, 1), (0, 256), (1, WINDOW), (2, WINDOW)])
def test_stream_audio_gives_the_samples_of_generate(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, seed: int, window: int
) -> None:
    engine = engine_of(checkpoint(seed), monkeypatch)
    monkeypatch.setattr(engine.core.runner.vocoder, "window", window)
    sampling = {"speech_do_sample": True, "speech_temperature": 0.7, "seed": 9}
    requests = [
        speech_request(TEXTS[0], max_new_tokens=4 if window == 1 else 20, speaker_per_language=True),
        speech_request(
            TEXTS[2], max_new_tokens=3, num_beams=3, num_return_sequences=2, vocoder_durations=False, **sampling
        ),
        Request("s2st", "fra", audio=clip(seed), sampling_rate=16_000, params=DecodingParams(max_new_tokens=5)),
    ]
    rate = window * engine.config.samples_per_frame
    for request, generated in zip(requests, engine.generate(requests), strict=True):
        pieces, result = drain(engine.stream_audio(request))
        assert generated.audio is not None and torch.equal(
            torch.from_numpy(np.concatenate(pieces)), torch.from_numpy(generated.audio)
        )
        assert all(piece.dtype == np.float32 and len(piece) == rate for piece in pieces[:-1])
        assert result.audio is None and np.array_equal(result.units, generated.units)  # type: ignore[arg-type]
        assert (result.text, result.tokens, result.score) == (generated.text, generated.tokens, generated.score)
        assert (result.sampling_rate, result.warnings) == (generated.sampling_rate, generated.warnings)
    assert_free(engine)


def test_stream_audio_yields_a_piece_before_it_computes_the_next(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(checkpoint(0), monkeypatch)
    vocoder = engine.core.runner.vocoder
    assert vocoder is not None
    calls = 0

    def counted(*args: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return type(vocoder).__call__(vocoder, *args)

    monkeypatch.setattr(engine.core.runner.synthesizer, "vocoder", Stand(vocoder, counted))
    for number, _ in enumerate(engine.stream_audio(speech_request(TEXTS[1])), start=1):
        assert calls == number
    assert calls > 2


class Stand:
    """A vocoder whose windows are computed by `call`."""

    def __init__(self, vocoder: Any, call: Callable[..., torch.Tensor]) -> None:
        self._vocoder, self._call = vocoder, call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vocoder, name)

    def __call__(self, *args: Any) -> torch.Tensor:
        return self._call(*args)


def test_stream_audio_and_stream_do_not_change_each_other(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(checkpoint(1), monkeypatch)
    requests = [speech_request(text, num_beams=2, max_new_tokens=10) for text in TEXTS]
    expected = engine.generate(requests)
    texts = engine.stream(requests)
    found = [next(texts)]
    voices = [engine.stream_audio(request) for request in requests[:3]]
    pieces: list[list[np.ndarray]] = [[next(voice)] for voice in voices]
    found.append(next(texts))
    for own, voice in zip(pieces, voices, strict=True):
        found += [result for result in [next(texts, None)] if result]
        own += drain(voice)[0]
    found += texts
    assert all(same(result, expected[result.id]) for result in found) and len(found) == len(requests)  # type: ignore[index]
    for own, generated in zip(pieces, expected, strict=False):
        assert np.array_equal(np.concatenate(own), generated.audio)  # type: ignore[arg-type]
    assert_free(engine)


def test_stream_audio_of_a_text_without_characters_has_no_pieces(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(checkpoint(0), monkeypatch)
    next_tokens = engine.core.runner.decoder.next_tokens

    def ends(hidden: torch.Tensor) -> NextTokens:
        expected = next_tokens(hidden)
        expected.logits[:, engine.config.eos_token_id] = 1e4
        return expected

    monkeypatch.setattr(engine.core.runner.decoder, "next_tokens", ends)
    pieces, result = drain(engine.stream_audio(speech_request("hello")))
    assert pieces == [] and result.text == "" and result.units is not None and len(result.units) == 0
    assert_free(engine)


def test_stream_audio_frees_everything_when_it_is_closed_early(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(checkpoint(0), monkeypatch)
    request = speech_request(TEXTS[1])
    [generated] = engine.generate([request])
    for taken in (0, 1, 2):
        pieces = engine.stream_audio(request)
        for _ in range(taken):
            next(pieces)
        pieces.close()
        assert_free(engine)
    assert np.array_equal(np.concatenate(drain(engine.stream_audio(request))[0]), generated.audio)  # type: ignore[arg-type]


@pytest.mark.parametrize("stage", ["decode", "vocoder"])
def test_stream_audio_frees_everything_when_it_is_interrupted(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    engine = engine_of(checkpoint(0), monkeypatch)
    others = engine.stream([speech_request(text, max_new_tokens=20) for text in TEXTS[:3]])
    expected = {
        result.id: result for result in engine.stream([speech_request(text, max_new_tokens=20) for text in TEXTS[:3]])
    }
    found = [next(others)]
    with monkeypatch.context() as patch:
        owner = engine.core.runner if stage == "decode" else engine.core.runner.synthesizer
        patch.setattr(
            owner, stage, failing(KeyboardInterrupt()) if stage == "decode" else stand_in(engine, KeyboardInterrupt())
        )
        with pytest.raises(KeyboardInterrupt):
            next(engine.stream_audio(speech_request(TEXTS[3])))
    found += others
    assert all(same(result, expected[result.id]) for result in found) and len(found) == 3
    assert_free(engine)


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*args: Any) -> Any:
        raise error

    return fail


def stand_in(engine: Engine, error: BaseException) -> Stand:
    return Stand(engine.core.runner.vocoder, failing(error))


@pytest.mark.parametrize(
    "error,kind",
    [(RuntimeError("could not create a primitive"), CapacityError), (NumericalError("of its own"), NumericalError)],
)
def test_stream_audio_raises_the_error_of_a_window(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception]
) -> None:
    engine = engine_of(checkpoint(0), monkeypatch)
    monkeypatch.setattr(engine.core.runner.synthesizer, "vocoder", stand_in(engine, error))
    with pytest.raises(kind):
        next(engine.stream_audio(speech_request(TEXTS[0])))
    assert_free(engine)


def test_stream_audio_raises_for_samples_that_are_not_finite(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(checkpoint(0), monkeypatch)
    nan = Stand(engine.core.runner.vocoder, lambda clips, windows: torch.full((9600,), torch.nan))
    monkeypatch.setattr(engine.core.runner.synthesizer, "vocoder", nan)
    with pytest.raises(NumericalError, match="not finite"):
        next(engine.stream_audio(speech_request(TEXTS[0])))


def test_stream_audio_refuses_a_wrong_request_at_once(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(checkpoint(0), monkeypatch)
    with pytest.raises(UsageError, match="t2tt produces text: stream_audio is for s2st and t2st"):
        engine.stream_audio(Request("t2tt", "fra", text="a", src_lang="eng"))
    with pytest.raises(UsageError, match="xyz"):
        engine.stream_audio(Request("t2st", "xyz", text="a", src_lang="eng"))
    with pytest.raises(InputError, match="empty"):
        next(engine.stream_audio(speech_request(" ")))
    late = speech_request(TEXTS[0])
    late.timeout = 0.0
    with pytest.raises(DeadlineError):
        next(engine.stream_audio(late))
    assert_free(engine)
