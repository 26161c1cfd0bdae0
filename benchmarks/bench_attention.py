"""attention over packed segments of 16 × 64: texts, what the speech adapter leaves of 10 seconds, units of speech.

Operations: 4 · heads · d · Σ rows². Least bytes: q, k, v read, the result written. SDPA has its inputs padded
beforehand and a mask; FlexAttention has the packed rows as one sequence and a block mask made beforehand.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from benchmarks.kernel_bench import Case, main
from seamless_kernels.attention import attention

HEADS, DIM = 16, 64
TUNE = {"BLOCK_M": (64, 128), "BLOCK_N": (32, 64, 128), "num_warps": (4, 8), "num_stages": (2, 3, 4)}


class Shape(NamedTuple):
    """Segments of one case."""

    name: str
    lengths: list[int]


def ragged(count: int, mean: int) -> list[int]:
    """`count` lengths between half of `mean` and one and a half of it, always the same."""
    rng = random.Random(count)
    return [rng.randint(mean // 2, mean * 3 // 2) for _ in range(count)]


SHAPES = (
    Shape("256 texts of about 36", ragged(256, 36)),
    Shape("256 adapted of about 63", ragged(256, 63)),
    Shape("one of 500", [500]),
    Shape("32 of 512", [512] * 32),
    Shape("32 of about 500", ragged(32, 500)),
    Shape("8 of about 2000", ragged(8, 2000)),
)
QUICK = (Shape("4 of about 36", ragged(4, 36)), Shape("2 of about 100", ragged(2, 100)))


class Packing:
    """Where the segments of a shape are: cu_seqlens, and the packed rows of a padded batch."""

    def __init__(self, lengths: list[int], device: torch.device) -> None:
        counts = torch.tensor(lengths, device=device)
        self.longest, self.total = max(lengths), sum(lengths)
        self.bounds = F.pad(counts.cumsum(0), (1, 0)).to(torch.int32)
        self.counts = counts.to(torch.int32)
        self.inside = torch.arange(self.longest, device=device) < counts[:, None]  # [segments, longest]
        self.segment = torch.repeat_interleave(torch.arange(len(lengths), device=device), counts)

    def pad(self, x: torch.Tensor) -> torch.Tensor:
        """[total, heads, d] → [segments, heads, longest, d]."""
        padded = x.new_zeros(*self.inside.shape, *x.shape[1:])
        padded[self.inside] = x
        return padded.transpose(1, 2).contiguous()

    def pack(self, x: torch.Tensor) -> torch.Tensor:
        """The reverse of `pad`; nothing to move where all segments are equally long."""
        return x.transpose(1, 2)[self.inside] if len(self.counts) > 1 else x[0].transpose(0, 1)

    def block_mask(self, device: torch.device) -> Any:
        """FlexAttention's mask of segments."""
        from torch.nn.attention.flex_attention import create_block_mask

        def same(_batch: Any, _head: Any, query: Any, key: Any) -> Any:
            return self.segment[query] == self.segment[key]

        return create_block_mask(same, None, None, self.total, self.total, device=device)


def cases(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[Case]:
    for shape in QUICK if quick else SHAPES:
        yield case(shape, device, dtype)


def case(shape: Shape, device: torch.device, dtype: torch.dtype) -> Case:
    packing = Packing(shape.lengths, device)

    def inputs() -> tuple[Any, ...]:
        qkv = torch.randn(packing.total, 3, HEADS, DIM, device=device).to(dtype)
        return *qkv.unbind(1), [packing.pad(part) for part in qkv.unbind(1)]

    def ours(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, _: Any) -> torch.Tensor:
        return attention(q, k, v, packing.bounds)

    def sdpa(_q: Any, _k: Any, _v: Any, padded: list[torch.Tensor]) -> torch.Tensor:
        mask = None if packing.inside.all() else packing.inside[:, None, None]
        return packing.pack(F.scaled_dot_product_attention(*padded, attn_mask=mask))

    providers: dict[str, Any] = {"ours": ours, "SDPA": sdpa}
    if device.type == "cuda":
        from torch.nn.attention.flex_attention import flex_attention

        mask = packing.block_mask(device)

        def flexible(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, _: Any) -> torch.Tensor:
            q, k, v = (part.transpose(0, 1)[None] for part in (q, k, v))
            return flex_attention(q, k, v, block_mask=mask)[0].transpose(0, 1)

        providers["FlexAttention"] = torch.compile(flexible, dynamic=False)
    if device.type == "cuda" and importlib.util.find_spec("flash_attn"):
        variable_lengths = importlib.import_module("flash_attn").flash_attn_varlen_func

        def flash(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, _: Any) -> torch.Tensor:
            bounds, longest = packing.bounds, packing.longest
            return variable_lengths(q, k, v, bounds, bounds, longest, longest)

        providers["flash-attn"] = flash
    return Case(
        f"{shape.name}, {HEADS} × {DIM}",
        inputs,
        providers,
        operations=4.0 * HEADS * DIM * sum(n * n for n in shape.lengths),
        least_bytes=4.0 * HEADS * DIM * packing.total * dtype.itemsize,
    )


if __name__ == "__main__":
    main("attention", cases)
