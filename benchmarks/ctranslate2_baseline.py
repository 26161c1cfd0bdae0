"""CTranslate2 on the text-to-text part: the same weights in its own specification of such a model (NLLB, M2M100).

The same computation: embedding · √dim + sinusoid of position 1, 2, …, pre-norm layers, ReLU, one matrix for both
embeddings and for the logits. The source is [language, pieces …, eos], the target starts with eos and, as a forced
prefix, the language. One thing has no counterpart: a
length of each request's own (`max_decoding_length` is one number for a call, `callback` is for one beam). So eos gets a
large bias and everything before it is forced as a prefix. A step with a forced token costs what any other costs: the
logits, candidates and beams are computed, then overwritten.
"""

from __future__ import annotations

import io
import math
import tempfile
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import torch
from ctranslate2.specs import transformer_spec
from safetensors.numpy import load_file

from benchmarks.workload import Item
from seamless_engine.config import ModelConfig, TransformerDims
from seamless_engine.models.layers import SinusoidalPositions

_EMBEDDING = "shared.weight"
_EOS_BIAS = 1e4


def convert(folder: Path) -> dict[str, bytes]:
    """The text-to-text model of a checkpoint folder as the files of a CTranslate2 model, by name."""
    config = ModelConfig.from_folder(folder)
    tensors = load_file(folder / "model.safetensors")
    encoder, decoder = config.text_encoder, config.text_decoder
    spec: Any = transformer_spec.TransformerSpec.from_config(
        (encoder.layers, decoder.layers), encoder.heads, pre_norm=True
    )
    for part, dims, name in ((spec.encoder, encoder, "text_encoder"), (spec.decoder, decoder, "text_decoder")):
        _set_stack(part, dims, _Tensors(tensors, f"{name}."), tensors[_EMBEDDING], config)
    spec.decoder.projection.weight = tensors[_EMBEDDING]
    spec.decoder.projection.bias = np.zeros(config.vocab_size, np.float32)
    spec.decoder.projection.bias[config.eos_token_id] = _EOS_BIAS
    tokens = [str(i) for i in range(config.vocab_size)]
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    spec.config.bos_token, spec.config.unk_token = str(config.bos_token_id), "1"
    spec.config.eos_token = spec.config.decoder_start_token = str(config.eos_token_id)
    spec.validate()
    spec.optimize()
    with tempfile.TemporaryDirectory() as target:
        spec.save(target)
        return {path.name: path.read_bytes() for path in Path(target).iterdir()}


class _Tensors:
    """Those below one prefix."""

    def __init__(self, tensors: dict[str, np.ndarray], prefix: str) -> None:
        self.tensors, self.prefix = tensors, prefix

    def at(self, prefix: str) -> _Tensors:
        return _Tensors(self.tensors, f"{self.prefix}{prefix}.")

    def linear(self, spec: Any, *names: str) -> None:
        spec.weight = np.concatenate([self.tensors[f"{self.prefix}{name}.weight"] for name in names])
        spec.bias = np.concatenate([self.tensors[f"{self.prefix}{name}.bias"] for name in names])

    def norm(self, spec: Any, name: str) -> None:
        spec.gamma, spec.beta = (self.tensors[f"{self.prefix}{name}.{leaf}"] for leaf in ("weight", "bias"))


def _set_stack(spec: Any, dims: TransformerDims, weights: _Tensors, embedding: np.ndarray, config: ModelConfig) -> None:
    positions = SinusoidalPositions(config.hidden_size, config.pad_token_id, torch.from_numpy(embedding))
    spec.position_encodings.encodings = positions.table[config.pad_token_id + 1 :].numpy()
    spec.scale_embeddings = math.sqrt(config.hidden_size) if config.scale_embedding else 1.0
    embeddings = spec.embeddings[0] if isinstance(spec.embeddings, list) else spec.embeddings
    embeddings.weight = embedding
    weights.norm(spec.layer_norm, "layer_norm")
    for i in range(dims.layers):
        layer, at = spec.layer[i], weights.at(f"layers.{i}")
        attention = at.at("self_attn")
        attention.linear(layer.self_attention.linear[0], "q_proj", "k_proj", "v_proj")
        attention.linear(layer.self_attention.linear[1], "out_proj")
        at.norm(layer.self_attention.layer_norm, "self_attn_layer_norm")
        if hasattr(layer, "attention"):
            cross = at.at("cross_attention")
            cross.linear(layer.attention.linear[0], "q_proj")
            cross.linear(layer.attention.linear[1], "k_proj", "v_proj")
            cross.linear(layer.attention.linear[2], "out_proj")
            at.norm(layer.attention.layer_norm, "cross_attention_layer_norm")
        at.linear(layer.ffn.linear_0, "ffn.fc1")
        at.linear(layer.ffn.linear_1, "ffn.fc2")
        at.norm(layer.ffn.layer_norm, "ffn_layer_norm")


class CTranslate2:
    """Both ways of two threads: one batch by two, or two batches at a time by one each."""

    def __init__(self, files: dict[str, bytes], compute_type: str, config: ModelConfig, threads: int) -> None:
        self.config = config
        self.translators = {
            (inter, threads // inter): ctranslate2.Translator(
                "seamless",
                compute_type=compute_type,
                inter_threads=inter,
                intra_threads=threads // inter,
                files={name: io.BytesIO(content) for name, content in files.items()},
            )
            for inter in sorted({1, threads})
        }

    def settings(self) -> list[dict[str, Any]]:
        """Batching options that a run may be given; batches are of requests sorted by source length, 0: all at once."""
        return [
            {"threads": threads, "batch_type": kind, "max_batch_size": size}
            for threads in self.translators
            for kind, size in (("examples", 0), ("examples", 32), ("tokens", 1024))
            if size or threads[0] == 1
        ]

    def generate(self, work: list[Item], num_beams: int, threads: tuple[int, int], **batching: Any) -> None:
        """Every request to its own length."""
        language = str(self.config.text_lang_ids["fra"])
        results = self.translators[threads].translate_batch(
            [[str(i) for i in item.ids or ()] for item in work],
            target_prefix=[[language, *("5" for _ in range(item.new_tokens - 1))] for item in work],
            beam_size=num_beams,
            **batching,
        )
        lengths = [len(result.hypotheses[0]) for result in results]  # the language is one, eos is left out
        if lengths != [item.new_tokens for item in work]:
            raise AssertionError(f"lengths {lengths} were not the forced ones")

    def free(self, work: list[Item], new_tokens: int, num_beams: int) -> list[list[int]]:
        """What the model itself chooses, eos banned: `new_tokens` of every request."""
        results = self.translators[next(iter(self.translators))].translate_batch(
            [[str(i) for i in item.ids or ()] for item in work],
            target_prefix=[[str(self.config.text_lang_ids["fra"])] for _ in work],
            beam_size=num_beams,
            min_decoding_length=new_tokens + 1,
            max_decoding_length=new_tokens + 1,
        )
        return [[int(token) for token in result.hypotheses[0][1:]] for result in results]
