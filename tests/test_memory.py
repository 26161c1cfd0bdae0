"""The profile run: no later pass is larger than its passes, and one that does not fit is named."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from seamless_engine import DecodingParams, Engine, EngineConfig, Request
from seamless_engine.memory import profile_run
from seamless_engine.model_runner import ModelRunner
from support.audio import clip_of_samples
from support.parity import TEXTS

Checkpoint = Callable[[int], Path]


def watch(runner: ModelRunner, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """The tokens, or frames, of every pass from now on, by module."""
    seen: dict[str, list[int]] = {"speech_encoder": [], "text_encoder": [], "vocoder": []}

    def counting(call: Any, sizes: list[int], count: Callable[..., int]) -> Any:
        def run(*args: Any) -> Any:
            sizes.append(count(*args))
            return call(*args)

        return run

    for name, count in (
        ("speech_encoder", lambda features, *_: len(features)),
        ("text_encoder", lambda tokens, *_: len(tokens)),
        ("vocoder", lambda _, windows: sum(window.end - window.start for window in windows)),
    ):
        kind = type(getattr(runner, name))
        call = kind.__call__
        monkeypatch.setattr(kind, "__call__", counting(call, seen[name], lambda _, *args, count=count: count(*args)))
    return seen


@pytest.mark.parametrize("max_encoder_tokens,seconds,tokens", [(150, 2.0, 40), (40, 2.0, 60), (7, 0.3, 20)])
def test_profile_run_has_the_largest_passes(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, max_encoder_tokens: int, seconds: float, tokens: int
) -> None:
    options = EngineConfig(
        max_encoder_tokens=max_encoder_tokens,
        max_audio_seconds=seconds,
        max_source_tokens=tokens,
        max_synthesis_tokens=30,
    )
    engine = Engine.from_pretrained(checkpoint(0), device="cpu", options=options)
    runner = engine.core.runner
    seen = watch(runner, monkeypatch)
    assert profile_run(runner.speech_encoder, runner.text_encoder, runner.vocoder, options, runner.device) == 0
    largest = {name: max(sizes) for name, sizes in seen.items()}
    assert largest["speech_encoder"] >= max_encoder_tokens and largest["text_encoder"] >= min(
        max_encoder_tokens, tokens
    )
    rng = random.Random(max_encoder_tokens)
    requests = [
        Request("s2st", "fra", audio=clip_of_samples(i, rng.randint(560, int(seconds * 16_000))), sampling_rate=16_000)
        for i in range(8)
    ]
    requests += [Request("t2st", "deu", text=rng.choice(TEXTS)[:10], src_lang="eng") for _ in range(8)]
    results = engine.generate(requests, DecodingParams(max_new_tokens=8))
    assert [result.error for result in results] == [None] * len(requests)
    for name, sizes in seen.items():
        assert max(sizes) == largest[name], name


def test_profile_run_names_a_pass_that_does_not_fit(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runner = Engine.from_pretrained(checkpoint(0), device="cpu").core.runner

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(type(runner.text_encoder), "__call__", full)
    with caplog.at_level(logging.WARNING):
        profile_run(None, runner.text_encoder, None, EngineConfig(max_source_tokens=77), runner.device)
    (record,) = caplog.records
    assert "max_source_tokens=77 is more than the free memory of cpu takes at once" in record.getMessage()


def test_profile_run_raises_any_other_error(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Engine.from_pretrained(checkpoint(0), device="cpu").core.runner

    def wrong(*_: Any) -> None:
        raise RuntimeError("a kernel is wrong")

    monkeypatch.setattr(type(runner.text_encoder), "__call__", wrong)
    with pytest.raises(RuntimeError, match="a kernel is wrong"):
        profile_run(None, runner.text_encoder, None, EngineConfig(), runner.device)
