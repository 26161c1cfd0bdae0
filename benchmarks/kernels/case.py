"""What a benchmark of an operation is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seamless_engine.config import ModelConfig

MODEL = ModelConfig()  # the published dims
DIM, HEADS = MODEL.hidden_size, MODEL.decoder_attention_heads
HEAD_DIM = DIM // HEADS


@dataclass(frozen=True)
class Setup:
    """Where operations are measured. quick: the smallest shapes alone, to try a benchmark itself. compiled: also what
    torch compiles, which takes many seconds for a case."""

    device: torch.device
    dtype: torch.dtype
    quick: bool = False
    compiled: bool = False

    def pick(self, quick: Any, full: Any) -> Any:
        return quick if self.quick else full

    def randn(self, *shape: int, dtype: torch.dtype | None = None, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, device=self.device) * scale).to(dtype or self.dtype)

    def randns(self, count: int, *shape: int, **options: Any) -> tuple[Tensor, ...]:
        return tuple(self.randn(*shape, **options) for _ in range(count))

    def cu_seqlens(self, count: int, length: int) -> Tensor:
        """int32 [count + 1]: the bounds of segments of one length."""
        return torch.arange(count + 1, dtype=torch.int32, device=self.device) * length


@dataclass(frozen=True)
class Case:
    """One shape of an operation.

    inputs: makes one set of arguments; called a few times, so that calls do not find theirs in a cache.
    implementations: functions of these arguments. The first is ours; one that returns tensors must return the same as
        it, one that raises an exception, as it cannot take the case, is left out and named.
    flops, least_bytes: floating-point operations, and bytes that must be read and written once.
    """

    name: str
    inputs: Callable[[], tuple[Any, ...]]
    implementations: Mapping[str, Callable[..., Any]]
    flops: float
    least_bytes: float
