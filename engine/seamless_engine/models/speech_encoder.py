"""Speech encoder: w2v-BERT Conformer with clipped relative keys, then the length adapter (8 frames → 1 vector)."""

from __future__ import annotations

import torch

from seamless_engine.config import ModelConfig, Reference
from seamless_engine.models.layers import FeedForward, Linear, SelfAttention, Weights, cumulative, segment_of
from seamless_engine.models.lengths import encoder_length
from seamless_kernels.attention import attention
from seamless_kernels.conformer_conv import conformer_conv
from seamless_kernels.rel_attention import rel_attention

_PROJECTIONS = ("linear_q", "linear_k", "linear_v", "linear_out")
_FFN = ("intermediate_dense", "output_dense")


class SpeechEncoder:
    def __init__(self, weights: Weights, config: ModelConfig, reference: Reference = "transformers") -> None:
        # The last frame of a clip can be half empty (models/lengths.py). Attention does not read it as a key, and the
        # convolutions of the conformer read zeros there. The adapter reads the output of the layers for this frame:
        # in transformers the layers begin with zeros, in the original project with the frame.
        self.clears_half_frame = reference == "transformers"
        projection = weights.at("feature_projection")
        self.feature_norm = projection.norm("layer_norm", config.layer_norm_eps)
        self.feature_projection = projection.linear("projection")
        encoder = weights.at("encoder")
        self.layers = [ConformerLayer(encoder.at(f"layers.{i}"), config) for i in range(config.speech_encoder_layers)]
        self.norm = encoder.norm("layer_norm", config.layer_norm_eps)
        self.intermediate_ffn = FeedForward(weights.at("intermediate_ffn"), _FFN, "relu")
        self.adapter = Adapter(weights.at("adapter.layers.0"), config)
        self.inner_norm = weights.norm("inner_layer_norm")

    def __call__(
        self, features: torch.Tensor, cu_seqlens: torch.Tensor, valid: torch.Tensor, num_states: int
    ) -> torch.Tensor:
        """features [total, 160], packed by clip, and the whole frames of each clip → encoder states [num_states, dim].

        valid: int32 [n]. num_states: the sum of their `encoder_length`s; a state is 160 ms. Frames beyond the last clip
        change no state of a clip; states beyond it have no meaning.
        """
        x = self.feature_projection(self.feature_norm(features.to(self.feature_norm.weight.dtype)))
        if self.clears_half_frame:
            half = torch.zeros(len(x), dtype=torch.int32, device=x.device)  # 1 at a half-empty frame
            half.index_add_(0, (cu_seqlens[1:] - 1).clamp(min=0), (valid < cu_seqlens.diff()).int())
            x = x.masked_fill(half.bool()[:, None], 0.0)
        for layer in self.layers:
            x = layer(x, cu_seqlens, valid)
        x = self.norm(x)
        x = self.intermediate_ffn(x, residual=x, scale=0.5)
        return self.inner_norm(self.adapter(x, cu_seqlens, valid, num_states))


class ConformerLayer:
    """½ FFN → relative attention → convolution → ½ FFN → norm, all but the last with pre-norm and residual."""

    def __init__(self, weights: Weights, config: ModelConfig) -> None:
        self.ffn1_norm = weights.norm("ffn1_layer_norm")
        self.ffn1 = FeedForward(weights.at("ffn1"), _FFN, "silu")
        self.attention_norm = weights.norm("self_attn_layer_norm")
        self.attention = SelfAttention(weights.at("self_attn"), config.speech_encoder_attention_heads, _PROJECTIONS)
        self.distance_embedding = weights.tensor("self_attn.distance_embedding.weight")
        self.left = config.left_max_position_embeddings
        self.chunk_size = config.speech_encoder_chunk_size
        self.left_chunks = config.speech_encoder_left_chunk_num
        conv = weights.at("conv_module")
        self.conv_norm = conv.norm("layer_norm")
        self.pointwise1 = conv.linear("pointwise_conv1", bias=False)
        # [dim, 31], stored tap by tap as the kernel reads it: it would copy any other layout at every call
        self.depthwise = conv.tensor("depthwise_conv.weight")[:, 0].T.contiguous().T
        self.depthwise_norm = conv.norm("depthwise_layer_norm")
        self.pointwise2 = conv.linear("pointwise_conv2", bias=False)
        self.ffn2_norm = weights.norm("ffn2_layer_norm")
        self.ffn2 = FeedForward(weights.at("ffn2"), _FFN, "silu")
        self.final_norm = weights.norm("final_layer_norm")

    def __call__(self, x: torch.Tensor, cu_seqlens: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        x = self.ffn1(self.ffn1_norm(x), residual=x, scale=0.5)
        mixed = rel_attention(
            *self.attention.project(self.attention_norm(x)),
            self.distance_embedding,
            cu_seqlens,
            valid,
            left=self.left,
            chunk_size=self.chunk_size,
            left_chunks=self.left_chunks,
        )
        x = self.attention.out(mixed.flatten(1), residual=x)
        gates = self.pointwise1(self.conv_norm(x))
        norm = self.depthwise_norm
        mixed = conformer_conv(gates, self.depthwise, norm.weight, norm.bias, cu_seqlens, valid)
        x = self.pointwise2(mixed, residual=x)
        return self.final_norm(self.ffn2(self.ffn2_norm(x), residual=x, scale=0.5))


class Adapter:
    """Two strided convolutions (residual and main path), then attention and FFN on one vector for eight frames.

    The stride equals the kernel size, so a convolution is one product over patches of eight frames.
    """

    def __init__(self, weights: Weights, config: ModelConfig) -> None:
        self.stride = config.adaptor_stride
        self.residual_norm = weights.norm("residual_layer_norm")
        self.residual_conv = _patch_linear(weights, "residual_conv")
        self.attention_norm = weights.norm("self_attn_layer_norm")
        self.attention_conv = _patch_linear(weights, "self_attn_conv")
        self.attention = SelfAttention(weights.at("self_attn"), config.speech_encoder_attention_heads, _PROJECTIONS)
        self.ffn_norm = weights.norm("ffn_layer_norm")
        self.ffn = FeedForward(weights.at("ffn"), _FFN, "relu")

    def __call__(self, x: torch.Tensor, cu_seqlens: torch.Tensor, valid: torch.Tensor, num_states: int) -> torch.Tensor:
        lengths = torch.where(cu_seqlens.diff() > 0, encoder_length(valid, self.stride), 0)
        cu_states = cumulative(lengths)
        frames = self._patches(len(x), cu_seqlens, cu_states, num_states)
        residual = self.residual_conv(_gather(self.residual_norm(x), frames), activation="glu")
        h = self.attention_conv(_gather(self.attention_norm(x), frames), activation="glu")
        mixed = attention(*self.attention.project(h), cu_states)
        x = self.attention.out(mixed.flatten(1), residual=residual)
        return self.ffn(self.ffn_norm(x), residual=x)

    def _patches(self, total: int, cu_seqlens: torch.Tensor, cu_states: torch.Tensor, num_states: int) -> torch.Tensor:
        """The frames that each state is computed from: int64 [num_states, stride], `total` for zero padding.

        The reference has one state more where the half-empty frame begins a patch of its own. It is never a key of
        attention, so it is not computed here.
        """
        out = torch.arange(num_states, device=cu_states.device)
        segment = segment_of(out, cu_states)
        first = (out - cu_states[segment]) * self.stride - self.stride // 2
        frame = first[:, None] + torch.arange(self.stride, device=out.device)  # within the segment
        inside = (frame >= 0) & (frame < cu_seqlens.diff()[segment, None])
        return torch.where(inside, frame + cu_seqlens[segment, None], total)


def _patch_linear(weights: Weights, name: str) -> Linear:
    kernel = weights.tensor(f"{name}.weight")  # [2·dim, dim, stride]
    return weights.packed(kernel.transpose(1, 2).flatten(1), weights.tensor(f"{name}.bias"))


def _gather(x: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    padded = torch.cat([x, x.new_zeros(1, x.shape[1])])
    return padded[frames.flatten()].view(len(frames), -1)  # [num_states, stride · dim]
