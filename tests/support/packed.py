"""Packed data for tests of operations, and the property that all have: batch invariance of a segment."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence

import torch

from seamless_kernels import jit, native

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Kernels are tested beside their references on the CPU, where the references are what the engine runs.
BACKENDS = tuple(name for name in ("torch", "triton") if jit.available() or name == "torch")
# For the operations that csrc/ has, too.
WITH_NATIVE = (*BACKENDS, *(["native"] if native.csrc and DEVICE.type == "cpu" else []))
LENGTHS = ([1], [5], [16], [1, 1, 1], [3, 17, 64, 1, 31], [127, 2, 66, 73], [200, 63])
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def bounds(lengths: Sequence[int], device: torch.device = DEVICE) -> torch.Tensor:
    """cu_seqlens int32 [n + 1]."""
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)


def normal(
    *shape: int, dtype: torch.dtype = torch.float32, seed: int = 0, device: torch.device = DEVICE
) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def per_segment(x: torch.Tensor, lengths: list[int], run: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """`run` on each segment of x [total, in] as an image [1, in, length], channels last again."""
    return torch.cat([run(part.T[None])[0].T for part in x.split(lengths)])


def assert_segments_independent(
    run: Callable[[list[torch.Tensor], list[int]], Sequence[torch.Tensor]], segments: list[torch.Tensor]
) -> None:
    """`run(segments, ids)` gives one result for each segment: the same bits alone, in any batch and in any order."""
    alone = [run([segment], [i])[0] for i, segment in enumerate(segments)]
    rng = random.Random(len(segments))
    for _ in range(6):
        order = rng.sample(range(len(segments)), rng.randint(2, len(segments)))
        together = run([segments[i] for i in order], order)
        for i, result in zip(order, together, strict=True):
            assert torch.equal(result, alone[i]), f"segment {i} in order {order}"
