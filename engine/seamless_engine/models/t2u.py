"""Text-to-unit model (UnitY2): decoder states → characters → durations → units, without autoregression."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from seamless_engine.config import ModelConfig
from seamless_engine.models.layers import (
    Launch,
    SelfAttention,
    SinusoidalPositions,
    TransformerEncoder,
    VariancePredictor,
    Weights,
    by_host,
    cumulative,
    frame_counts,
    segment_positions,
    segment_sums,
)
from seamless_kernels.layer_norm import add_layer_norm
from seamless_kernels.linear import logits


@dataclass(frozen=True)
class Units:
    """The final states [total, dim] of the units of n sentences, and the number of units of each sentence."""

    states: torch.Tensor
    lengths: list[int]


class TextToUnit:
    def __init__(self, weights: Weights, config: ModelConfig, launch: Launch = by_host) -> None:
        self.encoder = launch(TransformerEncoder(weights.at("model.encoder"), config.t2u_encoder))
        decoder = weights.at("model.decoder")
        self.char_embedding = decoder.tensor("embed_char.weight")
        self.char_alpha = decoder.tensor("pos_emb_alpha_char")
        self.unit_alpha = decoder.tensor("pos_emb_alpha")
        self.scale = config.embed_scale
        self.positions = SinusoidalPositions(config.hidden_size, config.t2u_pad_token_id, self.char_embedding)
        self.durations = launch(VariancePredictor(decoder.at("duration_predictor")))
        self.decoder = launch(UnitDecoder(decoder, config))
        self.head = decoder.head(decoder.tensor("embed_tokens.weight"))

    def __call__(
        self,
        states: torch.Tensor,
        cu_seqlens: torch.Tensor,
        valid: torch.Tensor,
        char_ids: torch.Tensor,
        char_counts: torch.Tensor,
    ) -> Units:
        """States [total, dim] of the text decoder and the characters that belong to them → units.

        valid: int32 [n], the states of a sentence that attention reads as keys: all but those of pad tokens.
        char_ids: int64 [characters]. char_counts: int64 [total], the characters of each state.
        Waits for the device once, for the number of units. Raises NumericalError for durations that cannot be.
        """
        encoder_states = self.encoder(states, cu_seqlens, valid)
        cu_chars = cumulative(segment_sums(char_counts, cu_seqlens))
        x = encoder_states.repeat_interleave(char_counts, dim=0, output_size=len(char_ids))
        x = self.char_embedding[char_ids] * self.scale + self._position(self.char_alpha, cu_chars, len(x)) + x

        durations = self.durations(x, cu_chars)
        lengths = frame_counts(durations, cu_chars)
        cu_units = cumulative(segment_sums(durations, cu_chars))
        x = x.repeat_interleave(durations, dim=0, output_size=sum(lengths))
        x = x + self._position(self.unit_alpha, cu_units, len(x))
        return Units(self.decoder(x, cu_units), lengths)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """float32 [total, vocab] over the T2U vocabulary."""
        return logits(states, self.head)

    def _position(self, alpha: torch.Tensor, cu_seqlens: torch.Tensor, total: int) -> torch.Tensor:
        self.positions.reserve(total + self.positions.first)
        return alpha * self.positions[segment_positions(cu_seqlens, total) + self.positions.first]


class UnitDecoder:
    def __init__(self, weights: Weights, config: ModelConfig) -> None:
        heads = config.t2u_decoder_attention_heads
        self.layers = [UnitLayer(weights.at(f"layers.{i}"), heads) for i in range(config.t2u_decoder_layers)]
        self.norm = weights.norm("layer_norm")

    def __call__(self, x: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x, cu_seqlens)
        return self.norm(x)


class UnitLayer:
    """Post-norm: attention, then two convolutions of 7 taps with a ReLU between them."""

    def __init__(self, weights: Weights, heads: int) -> None:
        self.attention = SelfAttention(weights.at("self_attn"), heads, ("q_proj", "k_proj", "v_proj", "out_proj"))
        self.attention_norm = weights.norm("self_attn_layer_norm")
        self.conv1 = weights.conv("conv1")
        self.conv2 = weights.conv("conv2")
        self.conv_norm = weights.norm("conv_layer_norm")

    def __call__(self, x: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
        x = self.attention_norm(self.attention(x, x, cu_seqlens))
        h = self.conv2(self.conv1(x, cu_seqlens), cu_seqlens, leaky_slope=0.0)
        norm = self.conv_norm
        return add_layer_norm(h, norm.weight, norm.bias, norm.eps, residual=x)[0]
