"""Random values for every tensor of a model, scaled so that activations keep order 1 and outputs are worth comparing."""

from __future__ import annotations

import math
import re

import torch

from seamless_engine.config import ModelConfig
from seamless_engine.layout import SHARED_NAMES, UNIT_NAMES, tensor_shapes

# (end of the name, gain): a weight is N(0, gain² / fan_in). The first match counts.
_GAINS = (
    (r"shared\.weight", 1.7),
    (r"(q_proj|k_proj|linear_q|linear_k)\.weight", 1.6),  # scores of order 2: heads choose some keys over others
    (r"text_decoder.*fc2\.weight", 2.5),  # the next word is mostly a matter of chance
    (r"embed_char\.weight", 3.0),  # units and durations follow the characters
    (r"t2u_model.model.decoder.*out_proj\.weight", 0.7),
    (r"hifi_gan.*convs[12]\..*", 0.7),  # residual branches
    (r"conv_post\.weight", 0.3),
    (r".*", 1.4),
)
# These follow an activation whose mean is above zero; rows that sum to zero keep the mean from drowning the signal.
_CENTRED = re.compile(r"(fc2|output_dense|pointwise_conv2|decoder\.layers\.\d+\.conv2|conv_post)\.weight$")
_EMBEDDINGS = {"distance_embedding": 0.3, "unit_embedding": 1.0, "speaker_embedding": 1.0, "language_embedding": 1.0}


def random_tensors(config: ModelConfig, seed: int) -> dict[str, torch.Tensor]:
    """float32 tensors of `tensor_shapes(config)`; all biases and layer norms are random."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: _random_tensor(name, shape, config, generator) for name, shape in tensor_shapes(config).items()}
    _steer_text(tensors, config)
    _steer_units(tensors, config)
    return tensors


def _random_tensor(name: str, shape: tuple[int, ...], config: ModelConfig, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator)
    owner, _, leaf = name.rpartition(".")
    part = owner.rpartition(".")[2]
    if leaf == "bias":
        return noise.mul_(0.15)
    if leaf.startswith("pos_emb_alpha") or part.endswith("layer_norm") or part in ("ln1", "ln2"):
        return noise.mul_(0.2).add_(1.0)
    if part in _EMBEDDINGS:
        return noise.mul_(_EMBEDDINGS[part])
    gain = next(gain for pattern, gain in _GAINS if re.search(pattern + "$", name))
    if _CENTRED.search(name):
        noise -= noise.mean(dim=tuple(range(1, noise.dim())), keepdim=True)
    return noise.mul_(gain / math.sqrt(_fan_in(name, shape, config)))


def _fan_in(name: str, shape: tuple[int, ...], config: ModelConfig) -> float:
    if ".upsampler." not in name:
        return math.prod(shape[1:])
    stage = int(name.split(".upsampler.")[1].split(".")[0])
    return shape[0] * shape[2] / config.upsample_rates[stage]  # taps that reach one output sample


def _steer_text(tensors: dict[str, torch.Tensor], config: ModelConfig) -> None:
    """Texts that vary and end: a word does not follow itself, eos wins now and then, pad and bos never do."""
    shared = tensors[SHARED_NAMES[0]]
    shared[[config.pad_token_id, config.bos_token_id]] *= 0.01
    # The output matrix is the embedding: with positive weights here the input word would score highest again.
    tensors["text_decoder.layer_norm.weight"] *= -1.0
    # eos points from late positions to early ones (see the sign above), so that it grows likelier along the text.
    eos = _positions(2, 5, config).mean(0) - _positions(12, 40, config).mean(0)
    eos *= _EOS * 1.7 * math.sqrt(2.0 * math.log(config.vocab_size)) / eos.norm()
    shared[config.eos_token_id] = eos


_EOS = 0.8


def _positions(start: int, stop: int, config: ModelConfig) -> torch.Tensor:
    """Rows `start` to `stop - 1` of the sinusoidal table, [stop - start, hidden]."""
    half = config.hidden_size // 2
    frequencies = torch.exp(torch.arange(half) * (-math.log(10000.0) / (half - 1)))
    angles = torch.arange(start, stop)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _steer_units(tensors: dict[str, torch.Tensor], config: ModelConfig) -> None:
    units = tensors[UNIT_NAMES[0]]
    known = config.vocoder_offset + config.unit_hifi_gan_vocab_size
    for ids in ([0, 3], slice(known, None)):  # units that the vocoder does not have
        units[ids] *= 0.01
    for name, mean, spread in (
        ("t2u_model.model.decoder.duration_predictor", 1.0, 0.3),
        ("vocoder.dur_predictor", 0.8, 0.2),
    ):
        tensors[f"{name}.proj.weight"] *= spread
        tensors[f"{name}.proj.bias"].fill_(mean)
