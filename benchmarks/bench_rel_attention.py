"""rel_attention over packed segments of 16 × 64 with the published clip: 10 seconds of speech are 500 rows.

Operations: 4 · heads · d · Σ rows² and 2 · 73 · heads · d a row for q · Eᵀ. Least bytes: q, k, v read, the result
written. SDPA has its inputs padded beforehand; it and FlexAttention form q · Eᵀ themselves, and SDPA the bias by key,
which torch.compile fuses.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.bench_attention import DIM, HEADS, Packing, Shape, ragged
from benchmarks.kernel_bench import Case, main
from seamless_kernels.rel_attention import rel_attention

LEFT, RIGHT = 64, 8
TUNE = {"BLOCK_M": (64, 128), "BLOCK_N": (32, 64), "BLOCK_E": (16, 32, 64), "num_warps": (4, 8), "num_stages": (2, 3)}
SHAPES = (
    Shape("one of 500", [500]),
    Shape("32 of 512", [512] * 32),
    Shape("32 of about 500", ragged(32, 500)),
    Shape("128 of about 125", ragged(128, 125)),
    Shape("8 of about 2000", ragged(8, 2000)),
)
QUICK = (Shape("2 of about 100", ragged(2, 100)),)


def cases(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[Case]:
    for shape in QUICK if quick else SHAPES:
        yield case(shape, device, dtype)


def case(shape: Shape, device: torch.device, dtype: torch.dtype) -> Case:
    packing = Packing(shape.lengths, device)
    e = torch.randn(LEFT + RIGHT + 1, DIM, device=device).to(dtype)
    at = torch.arange(packing.longest, device=device)
    column = (at - at[:, None]).clamp(-LEFT, RIGHT) + LEFT  # [longest, longest]
    scale = DIM**-0.5

    def inputs() -> tuple[Any, ...]:
        qkv = torch.randn(packing.total, 3, HEADS, DIM, device=device).to(dtype)
        return *qkv.unbind(1), [packing.pad(part) for part in qkv.unbind(1)]

    def ours(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, _: Any) -> torch.Tensor:
        where = (packing.bounds, packing.counts)
        return rel_attention(q, k, v, e, *where, left=LEFT, chunk_size=20_000, left_chunks=128)

    def sdpa(_q: Any, _k: Any, _v: Any, padded: list[torch.Tensor]) -> torch.Tensor:
        relative = padded[0] @ e.T  # [segments, heads, longest, 73]
        bias = relative.gather(-1, column.expand(*relative.shape[:2], -1, -1)) * scale
        bias = bias.masked_fill(~packing.inside[:, None, None], float("-inf"))
        return packing.pack(F.scaled_dot_product_attention(*padded, attn_mask=bias))

    providers: dict[str, Any] = {"ours": ours, "SDPA": sdpa}
    if device.type == "cuda":
        providers["torch.compile"] = torch.compile(sdpa, dynamic=False)
        from torch.nn.attention.flex_attention import flex_attention

        mask = packing.block_mask(device)

        def flexible(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, _: Any) -> torch.Tensor:
            q, k, v = (part.transpose(0, 1)[None] for part in (q, k, v))
            relative = (q[0] @ e.T) * scale  # [heads, total, 73]

            def add(score: Any, _batch: Any, head: Any, query: Any, key: Any) -> Any:
                return score + relative[head, query, (key - query).clamp(-LEFT, RIGHT) + LEFT]

            return flex_attention(q, k, v, score_mod=add, block_mask=mask)[0].transpose(0, 1)

        providers["FlexAttention"] = torch.compile(flexible, dynamic=False)
    return Case(
        f"{shape.name}, {HEADS} × {DIM}",
        inputs,
        providers,
        operations=HEADS * DIM * (4.0 * sum(n * n for n in shape.lengths) + 2.0 * (LEFT + RIGHT + 1) * packing.total),
        least_bytes=4.0 * HEADS * DIM * packing.total * dtype.itemsize,
    )


if __name__ == "__main__":
    main("rel_attention", cases)
