"""Text decoder (NLLB): one step for any number of queries, keys and values in a pool of slots."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from seamless_engine.config import ModelConfig, Reference
from seamless_engine.models.layers import FeedForward, SelfAttention, Weights, text_positions
from seamless_kernels.kv_cache import store_kv
from seamless_kernels.linear import LinearWeight, logits
from seamless_kernels.linear_top_candidates import linear_top_candidates
from seamless_kernels.paged_attention import cross_attention, self_attention
from seamless_kernels.top_candidates import top_candidates


@dataclass(frozen=True)
class KVPool:
    """Keys and values of all layers; a slot holds one position of one beam, or one encoder state of one request."""

    k: torch.Tensor  # [layers, slots, heads, d]
    v: torch.Tensor


@dataclass(frozen=True)
class StepInputs:
    """What one decode step reads. The queries of a request stand together; cu_queries bounds them."""

    tokens: torch.Tensor  # int64 [queries]
    positions: torch.Tensor  # int64 [queries], 0 for the first token
    slots: torch.Tensor  # int64 [queries], where this step's keys and values go
    slot_table: torch.Tensor  # int32 [any, width], the slots of positions 0 … lengths − 1
    beams: torch.Tensor  # int32 [queries], the row of slot_table that a query reads
    lengths: torch.Tensor  # int32 [queries], this position included
    cross_table: torch.Tensor  # int32 [any, width]
    requests: torch.Tensor  # int32 [requests], the row of cross_table that a request reads
    cross_lengths: torch.Tensor  # int32 [requests]
    cu_queries: torch.Tensor  # int32 [requests + 1]


@dataclass(frozen=True)
class NextTokens:
    """The distribution of the next token after each of the hidden states [queries, dim]. The logits, a megabyte
    each, are computed when they are first read."""

    hidden: torch.Tensor
    head: LinearWeight

    @cached_property
    def logits(self) -> torch.Tensor:
        """float32 [queries, vocab]"""
        return logits(self.hidden, self.head)

    def best(self, count: int, banned: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """log p float32 and token int64 [queries, count], as `top_candidates` orders them."""
        if "logits" in vars(self):
            return top_candidates(self.logits, count, banned)
        return linear_top_candidates(self.hidden, self.head, count, banned)


class TextDecoder:
    def __init__(
        self, weights: Weights, embedding: torch.Tensor, config: ModelConfig, reference: Reference = "transformers"
    ) -> None:
        self.embedding = embedding
        self.head = weights.head(embedding, kept=True)
        self.scale = config.embed_scale
        self.pad_token_id = config.pad_token_id
        self.positions = text_positions(config, reference, embedding)
        dims = config.text_decoder
        self.layers = [DecoderLayer(weights.at(f"layers.{i}"), dims.heads) for i in range(dims.layers)]
        self.norm = weights.norm("layer_norm")

    def store_encoder_states(self, encoder_states: torch.Tensor, slots: torch.Tensor, pool: KVPool) -> None:
        """Cross-attention keys and values of encoder_states [total, dim] into slots int64 [total], once a request."""
        for i, layer in enumerate(self.layers):
            k, v = layer.cross_kv(encoder_states).view(len(encoder_states), 2, *pool.k.shape[2:]).unbind(1)
            store_kv(k, v, pool.k[i], pool.v[i], slots)

    def step(self, inputs: StepInputs, pool: KVPool) -> torch.Tensor:
        """Final hidden states [queries, dim]; the keys and values of the queries are in the pool afterwards."""
        # A pad token has no position, as in the reference.
        offset = inputs.positions + self.positions.first
        positions = torch.where(inputs.tokens == self.pad_token_id, self.positions.padding_idx, offset)
        x = self.embedding[inputs.tokens] * self.scale + self.positions[positions]
        for i, layer in enumerate(self.layers):
            x = layer(x, inputs, pool.k[i], pool.v[i])
        return self.norm(x)

    def next_tokens(self, hidden: torch.Tensor) -> NextTokens:
        return NextTokens(hidden, self.head)


class DecoderLayer:
    def __init__(self, weights: Weights, heads: int) -> None:
        self.self_norm = weights.norm("self_attn_layer_norm")
        self.self_attention = SelfAttention(weights.at("self_attn"), heads, ("q_proj", "k_proj", "v_proj", "out_proj"))
        self.cross_norm = weights.norm("cross_attention_layer_norm")
        cross = weights.at("cross_attention")
        self.cross_q = cross.linear("q_proj")
        self.cross_kv = cross.linear("k_proj", "v_proj")
        self.cross_out = cross.linear("out_proj")
        self.ffn_norm = weights.norm("ffn_layer_norm")
        self.ffn = FeedForward(weights.at("ffn"), ("fc1", "fc2"), "relu")

    def __call__(self, x: torch.Tensor, inputs: StepInputs, k_pool: torch.Tensor, v_pool: torch.Tensor) -> torch.Tensor:
        q, k, v = self.self_attention.project(self.self_norm(x))
        store_kv(k, v, k_pool, v_pool, inputs.slots)
        mixed = self_attention(q, k_pool, v_pool, inputs.slot_table, inputs.lengths, inputs.beams)
        x = self.self_attention.out(mixed.flatten(1), residual=x)
        q = self.cross_q(self.cross_norm(x)).view_as(q)
        mixed = cross_attention(
            q, k_pool, v_pool, inputs.cross_table, inputs.cross_lengths, inputs.cu_queries, inputs.requests
        )
        x = self.cross_out(mixed.flatten(1), residual=x)
        return self.ffn(self.ffn_norm(x), residual=x)
