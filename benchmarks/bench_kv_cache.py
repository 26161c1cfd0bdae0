"""kv_cache at the model's rows: a decode step of one request with 5 beams, of many, and the encodings of a pass.

Operations: none. Least bytes: keys and values read and written, slots read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.kernel_bench import Case, main
from seamless_kernels.kv_cache import reference, store_kv

HEADS, DIM = 16, 64
SLOTS = 100_000  # 205 MB of keys in 16 bit: no cache holds them
TUNE = {"ROWS": (1, 2, 4), "num_warps": (1, 2, 4)}


def cases(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[Case]:
    k_pool, v_pool = (torch.zeros(SLOTS // (20 if quick else 1), HEADS, DIM, dtype=dtype, device=device) for _ in "kv")

    def inputs(rows: int) -> tuple[Any, ...]:
        k, v = torch.randn(rows, 2, HEADS, DIM, device=device).to(dtype).unbind(1)
        return k, v, k_pool, v_pool, torch.randperm(len(k_pool), device=device)[:rows]

    providers = {"ours": store_kv, "torch": reference}
    if device.type == "cuda":
        providers["torch.compile"] = torch.compile(reference, dynamic=False)
    for rows in (5, 320) if quick else (5, 320, 1280, 16_000):
        yield Case(
            f"{rows} rows × {HEADS} × {DIM}",
            lambda rows=rows: inputs(rows),
            providers,
            operations=0.0,
            least_bytes=rows * (4.0 * HEADS * DIM * dtype.itemsize + 8),
        )


if __name__ == "__main__":
    main("kv_cache", cases)
