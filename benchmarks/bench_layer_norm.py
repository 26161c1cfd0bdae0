"""layer_norm after a scaled residual, at the model's rows: a decode step, a full one, an encoder pass.

Operations: 8 an element, which never bind. Least bytes: x and residual read, y and their sum written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.kernel_bench import Case, main
from seamless_kernels.layer_norm import add_layer_norm, reference

DIM = 1024
TUNE = {"num_warps": (1, 2, 4, 8)}


def cases(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[Case]:
    weight, bias = (torch.randn(DIM, device=device).to(dtype) for _ in range(2))

    def ours(x: torch.Tensor, residual: torch.Tensor) -> Any:
        return add_layer_norm(x, weight, bias, residual=residual, scale=0.5)

    def eager(x: torch.Tensor, residual: torch.Tensor) -> Any:
        return reference(x, weight, bias, residual=residual, scale=0.5)

    providers = {"ours": ours, "torch": eager}
    if device.type == "cuda":
        providers["torch.compile"] = torch.compile(eager, dynamic=False)
    for rows in (5, 320) if quick else (5, 320, 1280, 16_000, 128_000):
        yield Case(
            f"{rows} rows × {DIM}",
            lambda rows=rows: tuple(torch.randn(rows, DIM, device=device).to(dtype) for _ in range(2)),
            providers,
            operations=8.0 * rows * DIM,
            least_bytes=4.0 * rows * DIM * dtype.itemsize,
        )


if __name__ == "__main__":
    main("layer_norm", cases)
