"""Text encoder (NLLB): scaled embedding, sinusoidal positions, pre-norm transformer layers."""

from __future__ import annotations

import torch

from seamless_engine.config import ModelConfig, Reference
from seamless_engine.models.layers import TransformerEncoder, Weights, segment_positions, text_positions


class TextEncoder:
    def __init__(
        self, weights: Weights, embedding: torch.Tensor, config: ModelConfig, reference: Reference = "transformers"
    ) -> None:
        self.embedding = embedding  # [vocab, dim], shared with the decoder
        self.scale = config.embed_scale
        self.positions = text_positions(config, reference, embedding)
        self.encoder = TransformerEncoder(weights, config.text_encoder)

    def __call__(self, tokens: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
        """tokens int64 [total] → encoder states [total, dim]."""
        positions = segment_positions(cu_seqlens, len(tokens)) + self.positions.first
        self.positions.reserve(len(tokens) + self.positions.first)
        x = self.embedding[tokens] * self.scale + self.positions[positions]
        return self.encoder(x, cu_seqlens)
