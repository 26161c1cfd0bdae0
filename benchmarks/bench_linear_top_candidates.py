"""linear_top_candidates of the model's head, 256,102 × 1024, for the rows of one beam search and of many.

Operations: 2 · rows · vocab · dim. Least bytes: the weight and the states. "unfused" is our product, logits written
in float32, and our top_candidates: what the fusion has to beat.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.kernel_bench import Case, main
from seamless_kernels.linear_top_candidates import linear_top_candidates, reference

VOCAB, DIM, COUNT = 256_102, 1024, 10
TUNE = {"PROGRAMS": (132, 264, 396, 528), "TILES": {1: (32, 64, 128), 2: (4, 8), 3: (2, 3, 4, 5)}}


def cases(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[Case]:
    vocab = VOCAB // 16 if quick else VOCAB
    weight = (torch.randn(vocab, DIM, device=device) / DIM**0.5).to(dtype)
    for rows in (5,) if quick else (1, 5, 40, 64, 320, 1280):
        yield case(rows, weight)


def case(rows: int, weight: torch.Tensor) -> Case:
    def eager(hidden: torch.Tensor) -> Any:
        return torch.log_softmax(F.linear(hidden, weight).float(), dim=-1).topk(COUNT)

    providers = {
        "ours": lambda hidden: linear_top_candidates(hidden, weight, COUNT),
        "unfused": lambda hidden: reference(hidden, weight, COUNT),
        "torch": eager,
    }
    if weight.device.type == "cuda":
        providers["torch.compile"] = torch.compile(eager, dynamic=False)
    return Case(
        f"{rows} rows, best {COUNT}",
        lambda: (torch.randn(rows, DIM, device=weight.device).to(weight.dtype),),
        providers,
        operations=2.0 * rows * weight.numel(),
        least_bytes=float(weight.dtype.itemsize * (weight.numel() + rows * DIM)),
    )


if __name__ == "__main__":
    main("linear_top_candidates", cases)
