"""Networks that CUDA graphs capture need no host between their kernels: a graph cannot copy from it or to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from seamless_engine.config import ModelConfig
from seamless_engine.loading.loader import Checkpoint
from seamless_engine.models import hifi_gan, layers, speech_encoder, t2u
from seamless_engine.models.hifi_gan import Generator
from seamless_engine.models.layers import Weights
from seamless_engine.models.speech_encoder import SpeechEncoder
from seamless_engine.models.t2u import TextToUnit
from seamless_engine.models.text_encoder import TextEncoder


class OnTheDevice(TorchDispatchMode):
    """Fails if an operation has a tensor of the host. (A read-back fails by itself: "meta" tensors have no values.)"""

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = call(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor)]
        assert all(tensor.device.type == "meta" for tensor in tensors), call
        return out


def product(x: torch.Tensor, weight: torch.Tensor, *_: Any, activation: str | None = None, **__: Any) -> torch.Tensor:
    return x.new_empty(len(x), len(weight) // (2 if activation == "glu" else 1))


def mixture(q: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


@pytest.fixture
def weights(checkpoint: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch) -> tuple[Weights, ModelConfig]:
    """Weights on the "meta" device, which only has shapes, and operations that return a tensor of the right shape."""
    folder = checkpoint(0)
    config = ModelConfig.from_folder(folder)
    stored = Checkpoint.open(folder, config, ("shared", "speech_encoder", "text_encoder", "t2u_model", "vocoder"))
    read = stored.weights(torch.device("cpu"), torch.float32).read
    monkeypatch.setattr(layers, "linear", product)
    monkeypatch.setattr(layers, "layer_norm", lambda x, *_: torch.empty_like(x))
    for module in (layers, speech_encoder):
        monkeypatch.setattr(module, "attention", mixture)
    monkeypatch.setattr(speech_encoder, "rel_attention", mixture)
    monkeypatch.setattr(layers, "conv1d", lambda x, weight, *_, **__: weight.new_empty(len(x), len(weight)))
    monkeypatch.setattr(t2u, "add_layer_norm", lambda x, *_, **__: (torch.empty_like(x), None))
    monkeypatch.setattr(
        hifi_gan,
        "conv_transpose1d",
        lambda x, weight, *_, stride, **__: x.new_empty(len(x) * stride, weight.shape[1]),
    )
    monkeypatch.setattr(hifi_gan, "residual_block", lambda x, *_, **__: torch.empty_like(x))
    monkeypatch.setattr(speech_encoder, "conformer_conv", lambda x, *_: x.new_empty(len(x), x.shape[1] // 2))
    return Weights(lambda name, dtype: read(name, dtype).to("meta"), lambda _, weight, __: weight), config


def test_encoder_passes_need_no_host(weights: tuple[Weights, ModelConfig]) -> None:
    source, config = weights
    speech = SpeechEncoder(source.at("speech_encoder"), config)
    text = TextEncoder(source.at("text_encoder"), source.tensor("shared.weight"), config)
    bounds, valid = (torch.zeros(count, dtype=torch.int32, device="meta") for count in (4, 3))
    with torch.inference_mode(), OnTheDevice():
        speech_states = speech(torch.empty(64, 160, device="meta"), bounds, valid, 11)
        text_states = text(torch.empty(40, dtype=torch.int64, device="meta"), bounds)
    assert (len(speech_states), len(text_states)) == (11, 40)
    with pytest.raises((NotImplementedError, RuntimeError)), torch.inference_mode():
        int(bounds[-1])  # a read-back is found


def test_networks_of_a_synthesis_pass_need_no_host(
    weights: tuple[Weights, ModelConfig],
) -> None:
    source, config = weights
    units, generator = TextToUnit(source.at("t2u_model"), config), Generator(source.at("vocoder.hifi_gan"), config)
    bounds, valid = (torch.zeros(count, dtype=torch.int32, device="meta") for count in (4, 3))
    states = torch.empty(12, config.hidden_size, device="meta")
    frames = torch.empty(12, config.lang_embed_dim + config.unit_embed_dim + config.spkr_embed_dim, device="meta")
    with torch.inference_mode(), OnTheDevice():
        assert units.encoder(states, bounds, valid).shape == units.decoder(states, bounds).shape == states.shape
        assert len(units.durations(states, bounds)) == 12
        assert len(generator(frames, bounds)) == 12 * config.samples_per_frame
