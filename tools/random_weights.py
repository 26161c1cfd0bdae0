"""Random values for every tensor, scaled so that activations keep order 1 and outputs are worth comparing."""

from __future__ import annotations

import math
import re

import torch

from seamless_engine.config import ModelConfig
from seamless_engine.loading.tensor_table import SHARED_NAMES, UNIT_NAMES, tensor_shapes

_EMBEDDING_STD = 1.7  # of the scaled text embedding and of the logits
# (name, gain): a weight is N(0, gain² / fan_in). The first match counts.
_GAINS = (
    (r"shared\.weight", _EMBEDDING_STD),
    (r"(q_proj|k_proj|linear_q|linear_k)\.weight", 1.6),  # scores of order 2: heads prefer some keys
    (r"text_decoder\..*fc2\.weight", 2.5),  # the next word is mostly a matter of chance
    (r"embed_char\.weight", 3.0),  # durations and units follow the characters
    (r"t2u_model\.model\.decoder\..*out_proj\.weight", 0.7),
    (r"hifi_gan\..*convs[12]\.\d+\.weight", 0.7),  # residual branches
    (r"conv_post\.weight", 0.3),  # keeps tanh away from its limits
    (r"", 1.4),
)
# These follow an activation whose mean is above zero; rows that sum to zero keep that mean from drowning the signal.
_CENTRED = re.compile(r"(fc2|output_dense|pointwise_conv2|decoder\.layers\.\d+\.conv2|conv_post)\.weight")
_EMBEDDINGS = {"distance_embedding": 0.3, "unit_embedding": 1.0, "speaker_embedding": 1.0, "language_embedding": 1.0}


def random_tensors(
    config: ModelConfig, seed: int, device: str = "cpu", endless: bool = False
) -> dict[str, torch.Tensor]:
    """float32 tensors of `tensor_shapes(config)` on a device; all biases and layer norms are random.

    endless: texts never end by themselves.
    """
    generator = torch.Generator(device).manual_seed(seed)
    tensors = {name: _random_tensor(name, shape, config, generator) for name, shape in tensor_shapes(config).items()}
    _steer_text(tensors, config)
    if endless:
        tensors[SHARED_NAMES[0]][config.eos_token_id] *= 0.01
    _steer_units(tensors, config)
    return tensors


def _random_tensor(name: str, shape: tuple[int, ...], config: ModelConfig, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator, dtype=torch.float32, device=generator.device)
    owner, _, leaf = name.rpartition(".")
    part = owner.rpartition(".")[2]
    if leaf == "bias":
        return noise.mul_(0.15)
    if part.endswith("layer_norm") or part in ("ln1", "ln2") or leaf.startswith("pos_emb_alpha"):
        return noise.mul_(0.2).add_(1.0)
    if part in _EMBEDDINGS:
        return noise.mul_(_EMBEDDINGS[part])
    if _CENTRED.search(name):
        noise -= noise.mean(dim=tuple(range(1, noise.dim())), keepdim=True)
    gain = next(gain for pattern, gain in _GAINS if re.search(pattern, name))
    return noise.mul_(gain / math.sqrt(_fan_in(name, shape, config)))


def _fan_in(name: str, shape: tuple[int, ...], config: ModelConfig) -> float:
    if ".upsampler." not in name:
        return math.prod(shape[1:])
    stage = int(name.split(".")[-2])
    return shape[0] * shape[2] / config.upsample_rates[stage]  # taps that reach one output sample


def _steer_text(tensors: dict[str, torch.Tensor], config: ModelConfig) -> None:
    """Texts that vary and end: a word seldom follows itself, eos wins now and then, pad and bos never do."""
    shared = tensors[SHARED_NAMES[0]]
    shared[[config.pad_token_id, config.bos_token_id]] *= 0.01
    # The output matrix is the embedding: with positive weights here the input word would score highest again.
    tensors["text_decoder.layer_norm.weight"] *= -1.0
    # Because of that sign, eos made of early minus late positions becomes likelier along the text. The length of its
    # row sets how often it wins: the best of V words scores about sqrt(2 log V) standard deviations.
    eos = 1.3 * _positions(2, 5, config).mean(0) - _positions(12, 40, config).mean(0)
    norm = 0.85 * _EMBEDDING_STD * math.sqrt(2.0 * math.log(config.vocab_size))
    shared[config.eos_token_id] = (eos * (norm / eos.norm())).to(shared.device)


def _positions(start: int, stop: int, config: ModelConfig) -> torch.Tensor:
    """Rows `start` to `stop - 1` of the sinusoidal table, [stop - start, hidden]."""
    half = config.hidden_size // 2
    frequencies = torch.exp(torch.arange(half).float() * (-math.log(10000.0) / (half - 1)))
    angles = torch.arange(start, stop)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _steer_units(tensors: dict[str, torch.Tensor], config: ModelConfig) -> None:
    """Units that the vocoder has, about two frames for a character and one or two for a unit."""
    units = tensors[UNIT_NAMES[0]]
    units[[0, 3]] *= 0.01
    units[config.vocoder_offset + config.unit_hifi_gan_vocab_size :] *= 0.01
    for name, mean, spread in (
        ("t2u_model.model.decoder.duration_predictor", 1.0, 0.3),
        ("vocoder.dur_predictor", 0.8, 0.2),
    ):
        tensors[f"{name}.proj.weight"] *= spread
        tensors[f"{name}.proj.bias"].fill_(mean)
