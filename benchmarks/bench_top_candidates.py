"""top_candidates of the model's 256,102 words: greedy, beams of 5, and as many beams as there may be.

Operations: 4 a word, which never bind. Least bytes: the logits, once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.kernel_bench import Case, main
from seamless_kernels.top_candidates import top_candidates

VOCAB = 256_102
TUNE = {"TILE": (8, 16, 32, 64), "num_warps": (4, 8), "CHOICE_WARPS": (4, 8, 16)}


def cases(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[Case]:
    """Logits are float32 whatever the model's dtype."""
    shapes = [(5, 10)] if quick else [(1, 2), (5, 10), (40, 10), (256, 2), (256, 10), (64, 128)]
    for rows, count in shapes:
        yield case(rows, count, device)


def case(rows: int, count: int, device: torch.device) -> Case:
    def eager(logits: torch.Tensor) -> Any:
        return torch.log_softmax(logits, dim=-1).topk(count)

    providers = {"ours": lambda logits: top_candidates(logits, count), "torch": eager}
    if device.type == "cuda":
        providers["torch.compile"] = torch.compile(eager, dynamic=False)
    return Case(
        f"{rows} rows, best {count}",
        lambda: (torch.randn(rows, VOCAB, device=device),),
        providers,
        operations=4.0 * rows * VOCAB,
        least_bytes=4.0 * rows * VOCAB,
    )


if __name__ == "__main__":
    main("top_candidates", cases)
