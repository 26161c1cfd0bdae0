"""conformer_conv at the model's clips of 10 s, 500 rows each: one clip, and packed passes of many.

Operations: 2 for each tap, about 20 an element for the rest. Least bytes: both halves read, the result written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.kernel_bench import Case, main
from seamless_kernels.conformer_conv import conformer_conv

DIM, TAPS, ROWS = 1024, 31, 500
TUNE = {"ROWS": (4, 8, 16), "num_warps": (8, 16)}


def eager(
    x: torch.Tensor,
    w: torch.Tensor,
    norm_weight: torch.Tensor,
    norm_bias: torch.Tensor,
    bounds: torch.Tensor,
    valid: torch.Tensor,
) -> torch.Tensor:
    """As frameworks do it: clips of one length as a batch, channels first for the convolution."""
    y = F.glu(x, dim=-1).view(-1, ROWS, DIM).transpose(1, 2)
    z = F.conv1d(F.pad(y, (TAPS - 1, 0)), w[:, None], groups=DIM).transpose(1, 2)
    return F.silu(F.layer_norm(z, (DIM,), norm_weight, norm_bias)).reshape(-1, DIM)


def cases(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[Case]:
    w = (torch.randn(TAPS, DIM, device=device) / TAPS**0.5).to(dtype).T
    norm = [torch.randn(DIM, device=device).to(dtype) for _ in range(2)]

    def inputs(clips: int) -> tuple[Any, ...]:
        x = torch.randn(clips * ROWS, 2 * DIM, device=device).to(dtype)
        bounds = torch.arange(clips + 1, dtype=torch.int32, device=device) * ROWS
        return x, w, *norm, bounds, torch.full((clips,), ROWS, dtype=torch.int32, device=device)

    providers = {"ours": conformer_conv, "torch": eager}
    if device.type == "cuda":
        providers["torch.compile"] = torch.compile(eager, dynamic=False)
    for clips in (1, 2) if quick else (1, 8, 32, 64):
        elements = clips * ROWS * DIM
        yield Case(
            f"{clips} × {ROWS} rows × {DIM}",
            lambda clips=clips: inputs(clips),
            providers,
            operations=elements * (2.0 * TAPS + 20.0),
            least_bytes=3.0 * elements * dtype.itemsize,
        )


if __name__ == "__main__":
    main("conformer_conv", cases)
