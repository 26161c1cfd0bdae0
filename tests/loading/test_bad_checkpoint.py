"""Checkpoints that cannot be used, or have weights that are not finite, give an error that names the fault."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from seamless_engine import CheckpointError, Engine, EngineConfig, NumericalError, Request
from seamless_engine.request import SPEECH_IN, SPEECH_OUT, TASKS
from support.audio import clip_of_samples
from support.callers import assert_free
from support.checkpoint import write_changed
from support.parity import same

REQUESTS = [
    Request(task, "fra", audio=clip_of_samples(7, 5_000), sampling_rate=16_000)
    if task in SPEECH_IN
    else Request(task, "fra", text="Good morning!", src_lang="eng")
    for task in TASKS
]


def load(folder: Path, **fields: Any) -> Engine:
    return Engine.from_pretrained(folder, device="cpu", options=EngineConfig(max_num_seqs=32), **fields)


def test_from_pretrained_says_why_a_checkpoint_cannot_be_used(
    checkpoint: Callable[[int], Path], tmp_path: Path
) -> None:
    def without(name: str) -> Path:
        folder = Path(shutil.copytree(checkpoint(0), tmp_path / f"without-{name}"))
        (folder / name).unlink()
        return folder

    def other_shape(tensors: dict[str, torch.Tensor]) -> None:
        tensors["text_decoder.layer_norm.bias"] = torch.zeros(65)

    empty, short = tmp_path / "empty", shutil.copytree(checkpoint(0), tmp_path / "short")
    empty.mkdir()
    content = (checkpoint(0) / "model.safetensors").read_bytes()
    (short / "model.safetensors").write_bytes(content[: len(content) // 2])
    cases = {
        tmp_path / "missing": "missing is not a folder",
        empty: "config.json is missing",
        short: "model.safetensors is not a readable safetensors file",
        write_changed(
            checkpoint(0), tmp_path / "shape", other_shape
        ): r"layer_norm.bias has shape \[65\].*asks for \[64\]",
        without("generation_config.json"): "generation_config.json is missing",
        without("sentencepiece.bpe.model"): "neither sentencepiece.bpe.model nor tokenizer.json",
        without("model.safetensors"): "neither model.safetensors nor",
    }
    for folder, message in cases.items():
        with pytest.raises(CheckpointError, match=message):
            load(folder)


@pytest.mark.parametrize(
    ("name", "value", "tasks"),
    [
        ("text_decoder.layer_norm.weight", torch.nan, frozenset(TASKS)),
        ("text_decoder.layer_norm.weight", 3e38, frozenset(TASKS)),  # finite, but the logits are not
        ("text_encoder.layer_norm.bias", torch.inf, frozenset(TASKS) - SPEECH_IN),
        ("speech_encoder.encoder.layer_norm.bias", torch.nan, SPEECH_IN),
        ("t2u_model.model.decoder.layers.0.conv1.bias", torch.nan, SPEECH_OUT),
        ("t2u_model.model.decoder.duration_predictor.proj.bias", torch.nan, SPEECH_OUT),
        ("vocoder.dur_predictor.proj.bias", torch.nan, SPEECH_OUT),
        ("vocoder.hifi_gan.conv_post.bias", torch.nan, SPEECH_OUT),
    ],
)
def test_generate_fails_only_requests_that_use_a_nan_weight(
    checkpoint: Callable[[int], Path], tmp_path: Path, name: str, value: float, tasks: frozenset[str]
) -> None:
    def ruin(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name].fill_(value)

    engine = load(write_changed(checkpoint(0), tmp_path / "ruined", ruin))
    expected = load(checkpoint(0)).generate(REQUESTS)
    for result, intact in zip(engine.generate(REQUESTS), expected, strict=True):
        if result.task in tasks:
            assert isinstance(result.error, NumericalError) and result.audio is None
        else:
            assert same(result, intact)
    assert_free(engine)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_check_weights_names_weights_that_are_not_finite(
    checkpoint: Callable[[int], Path], tmp_path: Path, value: float
) -> None:
    names = ["shared.weight", "speech_encoder.inner_layer_norm.bias", "vocoder.hifi_gan.conv_pre.weight"]

    def ruin(tensors: dict[str, torch.Tensor]) -> None:
        for name in names:
            tensors[name].view(-1)[-1] = value

    folder = write_changed(checkpoint(0), tmp_path / "bad", ruin)
    load(folder)
    with pytest.raises(CheckpointError, match="NaN or infinite values") as error:
        load(folder, check_weights=True)
    assert all(name in str(error.value) for name in names) and str(error.value).count(";") == 2
    load(checkpoint(0), check_weights=True)


def test_check_weights_names_a_weight_out_of_range_of_the_dtype(
    checkpoint: Callable[[int], Path], tmp_path: Path
) -> None:
    def grow(tensors: dict[str, torch.Tensor]) -> None:
        tensors["text_encoder.layer_norm.bias"][0] = 1e5

    folder = write_changed(checkpoint(0), tmp_path / "large", grow)
    load(folder, check_weights=True)
    with pytest.raises(CheckpointError, match="text_encoder.layer_norm.bias"):
        load(folder, dtype="float16", check_weights=True)


def test_check_weights_names_at_most_twenty_weights(checkpoint: Callable[[int], Path], tmp_path: Path) -> None:
    def ruin(tensors: dict[str, torch.Tensor]) -> None:
        for tensor in tensors.values():
            tensor.view(-1)[0] = torch.nan

    folder = write_changed(checkpoint(0), tmp_path / "all", ruin)
    with pytest.raises(CheckpointError, match="; and [0-9]+ more") as error:
        load(folder, check_weights=True)
    assert str(error.value).count(";") == 20
