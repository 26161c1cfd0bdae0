"""An engine with int8 weights: close to the plain engine, smaller, and configured by module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from seamless_engine import Engine, EngineConfig, Request, UsageError
from seamless_engine.config import INT8_MODULES
from seamless_engine.model_inputs import Features, Tokens
from support.parity import TEXTS
from tolerance import INT8_RMS

Checkpoint = Callable[..., Path]


def engine_of(folder: Path, *int8: str) -> Engine:
    return Engine.from_pretrained(folder, device="cpu", options=EngineConfig(int8=int8))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("source", ["text", "speech"])
def test_int8_logits_are_close_to_those_of_the_plain_engine(checkpoint: Checkpoint, seed: int, source: str) -> None:
    plain, quantized = engine_of(checkpoint(seed)), engine_of(checkpoint(seed), *INT8_MODULES)
    rows = torch.randn(60, 160, generator=torch.Generator().manual_seed(seed))
    given = Tokens([5, 9, 17, 30, 11, 3]) if source == "text" else Features(rows, 60)
    logits, others = (engine.forced_logits(given, [3, 8, 12, 7, 21, 40]) for engine in (plain, quantized))
    distance = ((logits - others).square().mean() / logits.square().mean()).sqrt().item()
    assert 0.0 < distance <= INT8_RMS, distance


def test_generate_synthesizes_speech_in_int8(checkpoint: Checkpoint) -> None:
    request = Request("t2st", "fra", text=TEXTS[0], src_lang="eng")
    result = engine_of(checkpoint(0), *INT8_MODULES).generate([request])[0]
    assert result.error is None and result.audio is not None and len(result.audio) > 0


@pytest.mark.parametrize("module", INT8_MODULES)
def test_int8_changes_the_weight_bytes_of_the_named_modules_alone(checkpoint: Checkpoint, module: str) -> None:
    plain, quantized = engine_of(checkpoint(0)).weight_bytes, engine_of(checkpoint(0), module).weight_bytes
    # The text decoder's includes a copy of the output matrix, which the plain one shares with the embedding.
    assert {name for name in plain if plain[name] != quantized[name]} == {module}
    if module != "text_decoder":
        assert quantized[module] < plain[module]


@pytest.mark.parametrize("int8", ["text_decoder", ["decoder"], ["text_decoder", "vocoder"], None, 3, [["a"]]])
def test_engine_config_refuses_modules_that_cannot_be_int8(int8: Any) -> None:
    with pytest.raises(UsageError, match="int8 must be a list of modules, of speech_encoder, text_encoder, text_dec"):
        EngineConfig(int8=int8)


def test_engine_config_takes_int8_as_a_list() -> None:
    assert EngineConfig(int8=["text_decoder"]) == EngineConfig(int8=("text_decoder",))  # type: ignore[arg-type]
