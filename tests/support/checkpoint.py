"""Tiny random checkpoints for tests: every dimension distinct wherever the model allows it."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import support.repository  # noqa: F401
from seamless_engine.config import ModelConfig
from tools.random_checkpoint import write_checkpoint

_CONFIG_FIELDS = {spec.name for spec in dataclasses.fields(ModelConfig)}

# One variant in the published proportions, one with short windows and chunks, one with another vocoder.
_VARIANTS: tuple[dict[str, Any], ...] = (
    dict(
        vocab_size=310,
        t2u_vocab_size=226,
        char_vocab_size=120,
        hidden_size=64,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=112,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=136,
        speech_encoder_layers=2,
        speech_encoder_attention_heads=4,
        speech_encoder_intermediate_size=104,
        t2u_encoder_layers=1,
        t2u_encoder_attention_heads=2,
        t2u_encoder_ffn_dim=88,
        t2u_decoder_layers=2,
        t2u_decoder_attention_heads=8,
        t2u_variance_predictor_hidden_dim=40,
        unit_hifi_gan_vocab_size=200,
        unit_embed_dim=24,
        lang_embed_dim=8,
        spkr_embed_dim=12,
        vocoder_num_langs=4,
        vocoder_num_spkrs=3,
        upsample_initial_channel=64,
        max_new_tokens=32,
    ),
    dict(
        vocab_size=290,
        t2u_vocab_size=190,
        char_vocab_size=170,
        hidden_size=48,
        layer_norm_eps=1e-3,  # used by two layer norms of the speech encoder only
        encoder_layers=2,
        encoder_attention_heads=3,
        encoder_ffn_dim=72,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=120,
        speech_encoder_layers=1,
        speech_encoder_attention_heads=3,
        speech_encoder_intermediate_size=88,
        left_max_position_embeddings=11,
        right_max_position_embeddings=3,
        conv_depthwise_kernel_size=15,
        speech_encoder_chunk_size=20,
        speech_encoder_left_chunk_num=1,
        t2u_encoder_layers=2,
        t2u_encoder_attention_heads=4,
        t2u_encoder_ffn_dim=104,
        t2u_decoder_layers=1,
        t2u_decoder_attention_heads=6,
        t2u_variance_predictor_hidden_dim=28,
        t2u_variance_predictor_kernel_size=5,
        unit_hifi_gan_vocab_size=170,
        unit_embed_dim=20,
        lang_embed_dim=10,
        spkr_embed_dim=6,
        vocoder_num_langs=3,
        vocoder_num_spkrs=5,
        upsample_initial_channel=40,
        max_new_tokens=24,
    ),
    dict(
        vocab_size=337,
        t2u_vocab_size=263,
        char_vocab_size=151,
        hidden_size=80,
        encoder_layers=1,
        encoder_attention_heads=5,
        encoder_ffn_dim=96,
        decoder_layers=3,
        decoder_attention_heads=2,
        decoder_ffn_dim=128,
        speech_encoder_layers=3,
        speech_encoder_attention_heads=5,
        speech_encoder_intermediate_size=144,
        t2u_encoder_layers=1,
        t2u_encoder_attention_heads=4,
        t2u_encoder_ffn_dim=72,
        t2u_decoder_layers=2,
        t2u_decoder_attention_heads=2,
        t2u_variance_predictor_hidden_dim=56,
        unit_hifi_gan_vocab_size=250,
        unit_embed_dim=36,
        lang_embed_dim=14,
        spkr_embed_dim=18,
        vocoder_num_langs=5,
        vocoder_num_spkrs=2,
        variance_predictor_kernel_size=5,
        upsample_initial_channel=48,
        upsample_rates=[4, 5, 4, 4],
        upsample_kernel_sizes=[8, 11, 6, 8],
        resblock_kernel_sizes=[3, 5],
        resblock_dilation_sizes=[[1, 2, 4], [2, 6, 3]],
        leaky_relu_slope=0.2,
        max_new_tokens=40,
    ),
)


def tiny(seed: int) -> dict[str, Any]:
    """Fields of config.json for `seed`; a third of the seeds gets each variant."""
    fields = dict(_VARIANTS[seed % len(_VARIANTS)])
    return fields | {"t2u_variance_predictor_embed_dim": fields["hidden_size"]}


def write_tiny(folder: str | os.PathLike[str], seed: int, **options: Any) -> Path:
    """Write `tiny(seed)`; `options` are fields of config.json or arguments of `write_checkpoint`."""
    fields = {name: options.pop(name) for name in _CONFIG_FIELDS & options.keys()}
    return write_checkpoint(folder, tiny(seed) | fields, seed=seed, **options)


def write_changed(source: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """A copy of a checkpoint of one file in the new `folder`, after `change` has had its tensors by name."""
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder
