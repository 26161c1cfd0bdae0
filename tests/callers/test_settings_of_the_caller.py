"""What the program around has set in torch and NumPy changes no result, and is as it was wherever its own code runs."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seamless_engine import DecodingParams, Engine, Request, hf
from seamless_engine.model_inputs import Tokens
from seamless_engine.request import TASKS
from support.callers import PATIENCE, drain, mixture
from support.hf import speech, text
from support.parity import TEXTS, random_request, same

Checkpoint = Callable[[int], Path]


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


SETTINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "device": lambda: torch.device("meta"),  # as set_default_device
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference": torch.inference_mode,
    "gradients": torch.enable_grad,
    "deterministic": deterministic,
    "seterr": lambda: np.errstate(all="raise"),
}


@pytest.fixture(params=SETTINGS)
def setting(request: pytest.FixtureRequest) -> Callable[[], AbstractContextManager[Any]]:
    return SETTINGS[request.param]


def state() -> tuple[object, ...]:
    """What a caller's code sees of the settings."""
    return (
        torch.get_default_dtype(),
        torch.tensor(1.0).device,
        torch.is_autocast_enabled("cpu"),
        torch.is_inference_mode_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        tuple(np.geterr().values()),
    )


def test_generate_ignores_torch_settings_of_the_caller(
    checkpoint: Checkpoint, engine: Engine, setting: Callable[[], AbstractContextManager[Any]]
) -> None:
    requests = mixture(0)
    expected, tokens = engine.generate(requests), Tokens(engine.preprocessor.tokenizer.encode(TEXTS[0], "eng"))
    logits = engine.forced_logits(tokens, [3, 5, 9])
    with setting():
        within = state()
        loaded = Engine.from_pretrained(checkpoint(0), device="cpu")
        assert state() == within

        def source() -> Iterator[Request]:
            for request in requests:
                assert state() == within
                yield request

        for one in (engine, loaded):
            assert all(same(a, b) for a, b in zip(expected, one.generate(requests), strict=True))
            found = []
            for result in one.stream(source()):
                assert state() == within
                found.append(result)
            assert all(same(a, b) for a, b in zip(expected, sorted(found, key=lambda r: r.id), strict=True))
            assert same(drain(one.stream_audio(requests[1])), expected[1])
            assert np.array_equal(one.forced_logits(tokens, [3, 5, 9]).numpy(), logits.numpy())
    assert all(same(a, b) for a, b in zip(expected, loaded.generate(requests), strict=True))


def test_drop_in_model_ignores_torch_settings_of_the_caller(
    checkpoint: Checkpoint, setting: Callable[[], AbstractContextManager[Any]]
) -> None:
    folder = checkpoint(0)
    model = hf.SeamlessM4Tv2Model.from_pretrained(folder, device="cpu")
    clip: dict[str, Any]
    words: dict[str, Any]
    clip, words = speech(folder, np.zeros(16_000, np.float32)), text(folder, *TEXTS[:2])
    lists = {"input_features": clip["input_features"].tolist()}

    def answers(model: hf.SeamlessM4Tv2Model) -> list[torch.Tensor]:
        ids = [[3, 5, 9]] * 2
        options: dict[str, Any] = {"tgt_lang": "fra", "generate_speech": False, "num_beams": 2, "max_new_tokens": 5}
        written = [model.generate(**inputs, **options) for inputs in (clip, words, lists)]
        torch.manual_seed(3)
        drawn = model.generate(**words, **options, do_sample=True)
        spoken = model.generate(**words, tgt_lang="fra", max_new_tokens=5)
        found = [*written, drawn, spoken, model(**words, decoder_input_ids=ids)]
        return [
            part.clone() for output in found for part in (output if isinstance(output, tuple) else output.to_tuple())
        ]

    with torch.inference_mode():
        expected = answers(model)
    with setting():
        for one in (model, hf.SeamlessM4Tv2Model.from_pretrained(folder, device="cpu")):
            for a, b in zip(expected, answers(one), strict=True):
                assert a.dtype == b.dtype and np.array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_generate_ignores_torch_defaults_set_before_the_import(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """Tables that are made once in a process are made under them, and every task and processor runs."""
    monkeypatch.setenv("SEAMLESS_BACKEND", backend)
    engine = Engine.from_pretrained(checkpoint(0), device="cpu")
    sampled = DecodingParams(
        **{"do_sample": True, "temperature": 0.8, "top_k": 9, "top_p": 0.9, "max_new_tokens": 4},
        **{"num_return_sequences": 2, "speech_do_sample": True, "speech_temperature": 0.7},
    )
    requests = [random_request(random.Random(i), engine.languages("s2st")) for i in range(10)]
    requests.append(Request("t2st", "fra", text=TEXTS[3], src_lang="eng", params=sampled))
    expected = engine.generate(requests)
    assert all(result.error is None for result in expected)
    assert {request.task for request in requests} == set(TASKS)
    program = """
import pickle, sys, torch
torch.set_default_dtype(torch.float64)
torch.set_default_device("meta")
from seamless_engine import Engine
requests = pickle.loads(sys.stdin.buffer.read())
sys.stdout.buffer.write(pickle.dumps(Engine.from_pretrained(sys.argv[1], device="cpu").generate(requests)))
"""
    command = [sys.executable, "-c", program, str(checkpoint(0))]
    done = subprocess.run(command, input=pickle.dumps(requests), stdout=subprocess.PIPE, check=True, timeout=PATIENCE)
    found = pickle.loads(done.stdout)  # noqa: S301 (our own)
    assert all(same(a, b) for a, b in zip(expected, found, strict=True))
