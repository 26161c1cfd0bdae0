"""The layers that the five networks share, and how their weights are read from a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from seamless_engine.config import ModelConfig, Reference, TransformerDims
from seamless_engine.errors import NumericalError
from seamless_kernels.attention import attention
from seamless_kernels.conv1d import ConvWeight, conv1d, pack_conv_weight
from seamless_kernels.layer_norm import layer_norm
from seamless_kernels.linear import Activation, LinearWeight, linear, pack_weight
from seamless_kernels.transfer import Download, upload

# A part of a model on packed tensors: x [total, …], cu_seqlens int32 [n + 1]; some take valid int32 [n], and some the
# number of outputs → outputs packed by segment. It waits for no result of the device, so that a graph can capture it.
Network = Callable[..., torch.Tensor]


class Launch(Protocol):
    """How a network is to be launched: returns the network itself, or one that launches small passes as CUDA graphs.

    max_outputs(tokens, segments): the most outputs of a pass of this size; None for one output for each token.
    """

    def __call__(self, network: Network, max_outputs: Callable[[int, int], int] | None = None) -> Network: ...


def by_host(network: Network, max_outputs: Callable[[int, int], int] | None = None) -> Network:
    """Has the host launch every kernel."""
    return network


@dataclass(frozen=True)
class Weights:
    """A view of a checkpoint below one prefix: `weights.at("layers.0").norm("ffn_layer_norm")`.

    read: name → the tensor on the engine's device, in the engine's dtype or the given one. Called once for each name.
    pack: prefix and a matrix [out, in] → the weight that `linear` takes. kept: the matrix is used elsewhere too.
    """

    read: Callable[[str, torch.dtype | None], torch.Tensor]
    pack: Callable[[str, torch.Tensor, bool], LinearWeight]
    prefix: str = ""

    def at(self, prefix: str) -> Weights:
        return Weights(self.read, self.pack, f"{self.prefix}{prefix}.")

    def tensor(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        """dtype: in place of the engine's, for the parts that are always float32."""
        return self.read(self.prefix + name, dtype)

    def linear(self, *names: str, bias: bool = True, dtype: torch.dtype | None = None) -> Linear:
        """Several names are fused into one product, their outputs side by side."""
        weight = torch.cat([self.tensor(f"{name}.weight", dtype).flatten(1) for name in names])
        offset = torch.cat([self.tensor(f"{name}.bias", dtype) for name in names]) if bias else None
        return Linear(pack_weight(weight), offset) if dtype else self.packed(weight, offset)

    def packed(self, weight: torch.Tensor, bias: torch.Tensor | None = None, kept: bool = False) -> Linear:
        return Linear(self.pack(self.prefix, weight, kept), bias)

    def head(self, weight: torch.Tensor, kept: bool = False) -> LinearWeight:
        """An output matrix, for `logits`."""
        return self.packed(weight, kept=kept).weight

    def norm(self, name: str, eps: float = 1e-5, dtype: torch.dtype | None = None) -> LayerNorm:
        return LayerNorm(self.tensor(f"{name}.weight", dtype), self.tensor(f"{name}.bias", dtype), eps)

    def conv(self, name: str, dtype: torch.dtype | None = None) -> Conv1d:
        return Conv1d(pack_conv_weight(self.tensor(f"{name}.weight", dtype)), self.tensor(f"{name}.bias", dtype))


@dataclass(frozen=True)
class Linear:
    weight: LinearWeight
    bias: torch.Tensor | None

    def __call__(
        self,
        x: torch.Tensor,
        activation: Activation | None = None,
        residual: torch.Tensor | None = None,
        scale: float = 1.0,
    ) -> torch.Tensor:
        return linear(x, self.weight, self.bias, activation=activation, residual=residual, scale=scale)


@dataclass(frozen=True)
class LayerNorm:
    weight: torch.Tensor
    bias: torch.Tensor
    eps: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return layer_norm(x, self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class Conv1d:
    weight: ConvWeight
    bias: torch.Tensor

    def __call__(
        self,
        x: torch.Tensor,
        cu_seqlens: torch.Tensor,
        dilation: int = 1,
        leaky_slope: float | None = None,
        residual: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return conv1d(
            x, self.weight, self.bias, cu_seqlens, dilation=dilation, leaky_slope=leaky_slope, residual=residual
        )


class FeedForward:
    """out(act(in(x))), two products."""

    def __init__(self, weights: Weights, names: tuple[str, str], activation: Activation) -> None:
        self.expand = weights.linear(names[0])
        self.contract = weights.linear(names[1])
        self.activation: Activation = activation

    def __call__(self, x: torch.Tensor, residual: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return self.contract(self.expand(x, self.activation), residual=residual, scale=scale)


class SelfAttention:
    """Multi-head self-attention with the three input projections in one product."""

    def __init__(self, weights: Weights, heads: int, names: tuple[str, str, str, str]) -> None:
        self.qkv = weights.linear(*names[:3])
        self.out = weights.linear(names[3])
        self.heads = heads

    def project(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q, k, v, each [total, heads, d]."""
        q, k, v = self.qkv(x).view(x.shape[0], 3, self.heads, -1).unbind(1)
        return q, k, v

    def __call__(
        self, x: torch.Tensor, residual: torch.Tensor, cu_seqlens: torch.Tensor, valid: torch.Tensor | None = None
    ) -> torch.Tensor:
        """residual + attention within the segments of x [total, dim], without positions."""
        mixed = attention(*self.project(x), cu_seqlens, valid)
        return self.out(mixed.flatten(1), residual=residual)


class TransformerEncoder:
    """Pre-norm layers and a final norm (NLLB): the text encoder after its embedding, and the T2U encoder."""

    def __init__(self, weights: Weights, dims: TransformerDims) -> None:
        self.layers = [TransformerLayer(weights.at(f"layers.{i}"), dims.heads) for i in range(dims.layers)]
        self.norm = weights.norm("layer_norm")

    def __call__(self, x: torch.Tensor, cu_seqlens: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x, cu_seqlens, valid)
        return self.norm(x)


class TransformerLayer:
    def __init__(self, weights: Weights, heads: int) -> None:
        self.attention_norm = weights.norm("self_attn_layer_norm")
        self.attention = SelfAttention(weights.at("self_attn"), heads, ("q_proj", "k_proj", "v_proj", "out_proj"))
        self.ffn_norm = weights.norm("ffn_layer_norm")
        self.ffn = FeedForward(weights.at("ffn"), ("fc1", "fc2"), "relu")

    def __call__(self, x: torch.Tensor, cu_seqlens: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        x = self.attention(self.attention_norm(x), x, cu_seqlens, valid)
        return self.ffn(self.ffn_norm(x), x)


class VariancePredictor:
    """Durations of packed characters or units, in float32: twice conv → ReLU → norm, then a projection."""

    def __init__(self, weights: Weights) -> None:
        self.conv1 = weights.conv("conv1", torch.float32)
        self.norm1 = weights.norm("ln1", dtype=torch.float32)
        self.conv2 = weights.conv("conv2", torch.float32)
        self.norm2 = weights.norm("ln2", dtype=torch.float32)
        self.proj = weights.linear("proj", dtype=torch.float32)

    def __call__(self, x: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
        """x [total, dim] → numbers of frames, int64 [total], at least 1; 0 where the predicted number is NaN."""
        x = self.norm1(self.conv1(x, cu_seqlens).relu_())
        x = self.norm2(self.conv2(x, cu_seqlens).relu_())
        log_duration = self.proj(x)[:, 0]
        # In float64: a vectorised expm1 and a scalar one are then rounded to the same integer (half to even).
        frames = torch.expm1(log_duration.double()).round().clamp(1, MAX_FRAMES)
        return frames.nan_to_num(nan=0.0).long()


MAX_FRAMES = 1 << 16  # of one clip, 22 minutes; a predictor that gives more is broken


class SinusoidalPositions:
    """The table of sinusoidal embeddings: position p has [sin(p·f), cos(p·f)], f_c = 10000^(−c / (dim/2 − 1)).

    Position `padding_idx` has zeros. `reserve` makes the table longer.
    """

    def __init__(self, dim: int, padding_idx: int, like: torch.Tensor) -> None:
        self.dim = dim
        self.padding_idx = padding_idx
        self.table = self._make(1024, like)
        self._outgrown: list[torch.Tensor] = []

    def _make(self, length: int, like: torch.Tensor) -> torch.Tensor:
        half = self.dim // 2
        frequency = torch.exp(torch.arange(half).float() * -(math.log(10000) / (half - 1)))
        angle = torch.arange(length).float()[:, None] * frequency
        table = torch.zeros(length, self.dim, dtype=torch.float32)  # the last column of an odd dim stays zero
        table[:, : 2 * half] = torch.cat([angle.sin(), angle.cos()], dim=1)
        table[self.padding_idx] = 0.0
        (uploaded,) = upload(like.device, table.numpy())
        return uploaded.to(like.dtype)

    def reserve(self, length: int) -> None:
        """Have at least `length` positions."""
        if length > len(self.table):
            self._outgrown.append(self.table)  # captured graphs read it
            self.table = self._make(1 << (length - 1).bit_length(), self.table)

    @property
    def first(self) -> int:
        """The position of the first token."""
        return self.padding_idx + 1

    def __getitem__(self, positions: torch.Tensor) -> torch.Tensor:
        """positions int64 [total], which `reserve` has covered → embeddings [total, dim]."""
        return self.table[positions]


def text_positions(config: ModelConfig, reference: Reference, like: torch.Tensor) -> SinusoidalPositions:
    """The positions of the text encoder and the text decoder.

    transformers numbers them from the checkpoint's pad id on, which is 0. The original project trained them with pad
    id 1, which is the T2U model's in both implementations.
    """
    padding_idx = 1 if reference == "meta" else config.pad_token_id
    return SinusoidalPositions(config.hidden_size, padding_idx, like)


def segment_positions(cu_seqlens: torch.Tensor, total: int) -> torch.Tensor:
    """0, 1, 2, … within each segment: int64 [total]. Tokens beyond the last segment continue its count."""
    tokens = torch.arange(total, device=cu_seqlens.device)
    return tokens - cu_seqlens[segment_of(tokens, cu_seqlens)]


def segment_of(tokens: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
    """The segment of each token index: int64 [total]. Tokens beyond the last segment have the last one."""
    return torch.searchsorted(cu_seqlens[1:].long(), tokens, right=True).clamp(max=len(cu_seqlens) - 2)


def cumulative(lengths: torch.Tensor) -> torch.Tensor:
    """cu_seqlens int32 [n + 1] of segment lengths [n]."""
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int()


def segment_sums(values: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
    """Sums of values int64 [total] over each segment: int64 [n]."""
    lengths = cu_seqlens.diff().long()
    segment = segment_of(torch.arange(len(values), device=values.device), cu_seqlens)
    return torch.zeros_like(lengths).index_add_(0, segment, values)


def frame_counts(durations: torch.Tensor, cu_seqlens: torch.Tensor) -> list[int]:
    """The frames of each segment, by the durations of a VariancePredictor. Waits for the device.

    Raises NumericalError if a duration was NaN, or if a segment has more than MAX_FRAMES.
    """
    nan_counts = segment_sums((durations == 0).long(), cu_seqlens)
    frames, nan_counts = Download(torch.stack((segment_sums(durations, cu_seqlens), nan_counts))).wait().tolist()
    if any(nan_counts):
        raise NumericalError("the durations of this request are NaN; check the weights")
    if max(frames) > MAX_FRAMES:
        raise NumericalError(f"the speech would take {max(frames)} frames, more than {MAX_FRAMES}; check the weights")
    return frames
