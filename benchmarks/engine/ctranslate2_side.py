"""CTranslate2 on the text-to-text part: the same weights in its own specification of such a model (NLLB, M2M100).

One thing has no counterpart: a length of each request's own (`max_decoding_length` is one number for a call, `callback`
is for one beam). So eos gets a large bias and everything before it is forced as a prefix. A step with a forced token
costs what any other costs: the logits, candidates and beams are computed, then overwritten.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import torch
from ctranslate2.specs import transformer_spec
from safetensors.numpy import load_file

from benchmarks.engine.sides import Answer, Side
from benchmarks.engine.workload import Item
from seamless_engine.config import ModelConfig
from seamless_engine.models.layers import SinusoidalPositions

_EOS_BIAS = 1e4


def convert(folder: Path, target: Path) -> Path:
    """Write the text-to-text model of a checkpoint folder as a CTranslate2 model. Returns its folder."""
    config = ModelConfig.from_folder(folder)
    tensors = load_file(folder / "model.safetensors")
    embedding, encoder, decoder = tensors["shared.weight"], config.text_encoder, config.text_decoder
    layers = encoder.layers, decoder.layers
    spec: Any = transformer_spec.TransformerSpec.from_config(layers, encoder.heads, pre_norm=True)
    _set_stack(spec.encoder, encoder.layers, tensors, "text_encoder", config)
    _set_stack(spec.decoder, decoder.layers, tensors, "text_decoder", config)
    spec.decoder.projection.weight = embedding
    spec.decoder.projection.bias = np.zeros(config.vocab_size, np.float32)
    spec.decoder.projection.bias[config.eos_token_id] = _EOS_BIAS
    tokens = [str(i) for i in range(config.vocab_size)]
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    spec.config.bos_token, spec.config.unk_token = str(config.bos_token_id), "1"
    spec.config.eos_token = spec.config.decoder_start_token = str(config.eos_token_id)
    spec.validate()
    spec.optimize()
    target.mkdir(exist_ok=True)
    spec.save(target)
    return target


def _set_stack(spec: Any, layers: int, tensors: dict[str, np.ndarray], prefix: str, config: ModelConfig) -> None:
    def linear(spec: Any, *names: str) -> None:
        spec.weight = np.concatenate([tensors[f"{prefix}.{name}.weight"] for name in names])
        spec.bias = np.concatenate([tensors[f"{prefix}.{name}.bias"] for name in names])

    def norm(spec: Any, name: str) -> None:
        spec.gamma, spec.beta = (tensors[f"{prefix}.{name}.{leaf}"] for leaf in ("weight", "bias"))

    embedding = tensors["shared.weight"]
    positions = SinusoidalPositions(config.hidden_size, config.pad_token_id, torch.from_numpy(embedding))
    spec.position_encodings.encodings = positions.table[config.pad_token_id + 1 :].numpy()
    spec.scale_embeddings = config.embed_scale
    embeddings = spec.embeddings[0] if isinstance(spec.embeddings, list) else spec.embeddings
    embeddings.weight = embedding
    norm(spec.layer_norm, "layer_norm")
    for i, layer in enumerate(spec.layer[:layers]):
        own, cross, ffn = (f"layers.{i}.{part}" for part in ("self_attn", "cross_attention", "ffn"))
        linear(layer.self_attention.linear[0], f"{own}.q_proj", f"{own}.k_proj", f"{own}.v_proj")
        linear(layer.self_attention.linear[1], f"{own}.out_proj")
        norm(layer.self_attention.layer_norm, f"{own}_layer_norm")
        if hasattr(layer, "attention"):
            linear(layer.attention.linear[0], f"{cross}.q_proj")
            linear(layer.attention.linear[1], f"{cross}.k_proj", f"{cross}.v_proj")
            linear(layer.attention.linear[2], f"{cross}.out_proj")
            norm(layer.attention.layer_norm, f"{cross}_layer_norm")
        linear(layer.ffn.linear_0, f"{ffn}.fc1")
        linear(layer.ffn.linear_1, f"{ffn}.fc2")
        norm(layer.ffn.layer_norm, f"{ffn}_layer_norm")


class CTranslate2(Side):
    """Text to text. inter: batches at a time, each by its share of the threads."""

    def __init__(self, model: Path, compute_type: str, config: ModelConfig, inter: int) -> None:
        batching = (("tokens", 1024), ("examples", 32), ("examples", 0))  # 0: all requests in one batch
        settings = [{"batch_type": kind, "max_batch_size": size} for kind, size in batching if size or inter == 1]
        super().__init__("cpu", settings)
        self.compute_type, self._language = compute_type, str(config.text_lang_ids["fra"])
        threads = {"inter_threads": inter, "intra_threads": torch.get_num_threads() // inter}
        self.translator = ctranslate2.Translator(str(model), compute_type=compute_type, **threads)

    def answer(self, task: str, work: list[Item], num_beams: int, **batching: Any) -> list[Answer]:
        """Every request to its own length. CTranslate2 sorts requests by source length."""
        start, language = time.perf_counter(), self._language
        prefixes = [[language, *("5" for _ in range(item.new_tokens - 1))] for item in work]
        hypotheses = self._translate(work, target_prefix=prefixes, beam_size=num_beams, **batching)
        seconds = time.perf_counter() - start
        return [Answer(seconds, tokens) for tokens in hypotheses]  # the language is one of them, eos is left out

    def greedy(self, task: str, work: list[Item]) -> list[list[int]] | None:
        """What the model itself chooses, eos excluded."""
        if self.compute_type != "float32":
            return None
        count = work[0].new_tokens + 1
        options = {"min_decoding_length": count, "max_decoding_length": count, "beam_size": 1}
        return [tokens[1:] for tokens in self._translate(work, target_prefix=[[self._language]] * len(work), **options)]

    def _translate(self, work: list[Item], **options: Any) -> list[list[int]]:
        results = self.translator.translate_batch([[str(i) for i in item.ids or ()] for item in work], **options)
        return [[int(token) for token in result.hypotheses[0]] for result in results]
