"""paged_attention of 16 × 64: rows of a decode step over what they have said, and over what their request has heard.

Operations: 4 · heads · d for each key of each row. Least bytes: keys and values once for each table, q read, the result
written. SDPA gathers the slots first. FlashInfer's plan, which reads the tables on the host, is made once.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from benchmarks.kernel_bench import Case, main
from seamless_kernels.paged_attention import cross_attention, self_attention

HEADS, DIM = 16, 64
TUNE = {"BLOCK": (32, 64, 128), "num_warps": (2, 4, 8), "num_stages": (1, 2, 3)}


class Shape(NamedTuple):
    """Tables of equal length, each for some rows; a table per row is self-attention."""

    name: str
    tables: int
    beams: int
    length: int

    @property
    def rows(self) -> int:
        return self.tables * self.beams


SHAPES = (
    Shape("self, 5 rows of 36", 5, 1, 36),
    Shape("self, 1280 rows of 36", 1280, 1, 36),
    Shape("self, 320 rows of 256", 320, 1, 256),
    Shape("self, 5 rows of 1024", 5, 1, 1024),
    Shape("cross, 1 × 5 beams of 63", 1, 5, 63),
    Shape("cross, 256 × 5 beams of 63", 256, 5, 63),
    Shape("cross, 64 × 5 beams of 1024", 64, 5, 1024),
    Shape("cross, 1 × 5 beams of 1024", 1, 5, 1024),
)
QUICK = (Shape("self, 5 rows of 36", 5, 1, 36), Shape("cross, 2 × 5 beams of 63", 2, 5, 63))


def cases(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[Case]:
    for shape in QUICK if quick else SHAPES:
        yield case(shape, device, dtype)


def case(shape: Shape, device: torch.device, dtype: torch.dtype) -> Case:
    slots = shape.tables * shape.length
    table = torch.randperm(slots, device=device).to(torch.int32).view(shape.tables, shape.length)
    lengths = torch.full((shape.tables,), shape.length, dtype=torch.int32, device=device)
    bounds = shape.beams * torch.arange(shape.tables + 1, dtype=torch.int32, device=device)

    def inputs() -> tuple[torch.Tensor, ...]:
        return tuple(torch.randn(count, HEADS, DIM, device=device).to(dtype) for count in (shape.rows, slots, slots))

    def ours(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if shape.beams == 1:
            return self_attention(q, k, v, table, lengths)
        return cross_attention(q, k, v, table, lengths, bounds)

    def gathered(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        keys, values = (pool[table.long()].transpose(1, 2) for pool in (k, v))  # [tables, heads, length, d]
        queries = q.view(shape.tables, shape.beams, HEADS, DIM).transpose(1, 2)
        return F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).reshape(q.shape)

    providers: dict[str, Callable[..., Any]] = {"ours": ours, "SDPA": gathered}
    if device.type == "cuda":
        providers["torch.compile"] = torch.compile(gathered, dynamic=False)
        if importlib.util.find_spec("flashinfer"):
            providers["FlashInfer"] = flashinfer(shape, table, bounds, dtype)
    return Case(
        shape.name,
        inputs,
        providers,
        operations=4.0 * shape.rows * shape.length * HEADS * DIM,
        least_bytes=2.0 * (slots + shape.rows) * HEADS * DIM * dtype.itemsize,
    )


def flashinfer(shape: Shape, table: torch.Tensor, bounds: torch.Tensor, dtype: torch.dtype) -> Callable[..., Any]:
    """Pages of one slot; beams as the rows of a prefill that is not causal. The first call plans."""

    @functools.cache
    def planned() -> Any:
        library = importlib.import_module("flashinfer")
        workspace = torch.empty(2**27, dtype=torch.uint8, device=table.device)
        starts = shape.length * torch.arange(shape.tables + 1, dtype=torch.int32, device=table.device)
        last = torch.ones(shape.tables, dtype=torch.int32, device=table.device)
        pages = (starts, table.flatten(), last, HEADS, HEADS, DIM, 1)
        if shape.beams == 1:
            wrapper = library.BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD")
            wrapper.plan(*pages, q_data_type=dtype, kv_data_type=dtype)
        else:
            wrapper = library.BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD")
            wrapper.plan(bounds, *pages, causal=False, q_data_type=dtype, kv_data_type=dtype)
        return wrapper

    return lambda q, k, v: planned().run(q, (k[:, None], v[:, None]))


if __name__ == "__main__":
    main("paged_attention", cases)
