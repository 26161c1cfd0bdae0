"""conv_transpose1d at the five stages of the vocoder, clips of 10 s packed.

Operations: 2 · k · in · out a row of x. Least bytes: x and the weight read, y written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.kernel_bench import Case, main
from seamless_kernels.conv_transpose1d import conv_transpose1d, pack_conv_transpose_weight

STAGES = ((512, 50, 11, 5), (256, 250, 8, 4), (128, 1000, 8, 4), (64, 4000, 4, 2), (32, 8000, 4, 2))
SECONDS = 10
TUNE = {"BLOCK_M": (64, 128), "BLOCK_N": (32, 64, 128), "num_stages": (2, 3, 4)}


def cases(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[Case]:
    for channels, rate, taps, stride in STAGES[:2] if quick else STAGES:
        for clips in (1,) if quick else (1, 8, 64):
            yield case(channels, rate * SECONDS, taps, stride, clips, device, dtype)


def case(
    channels: int, rows: int, taps: int, stride: int, clips: int, device: torch.device, dtype: torch.dtype
) -> Case:
    out, total = channels // 2, clips * rows

    def inputs() -> tuple[Any, ...]:
        x = torch.randn(total, channels, device=device).to(dtype)
        weight = (torch.randn(channels, out, taps, device=device) / (channels * taps / stride) ** 0.5).to(dtype)
        bounds = torch.arange(clips + 1, dtype=torch.int32, device=device) * rows
        return x, weight, pack_conv_transpose_weight(weight), torch.randn(out, device=device).to(dtype), bounds

    def ours(x: torch.Tensor, _: Any, packed: torch.Tensor, bias: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
        return conv_transpose1d(x, packed, bias, bounds, stride=stride, leaky_slope=0.1)

    def library(x: torch.Tensor, weight: torch.Tensor, _: Any, bias: torch.Tensor, __: Any) -> torch.Tensor:
        image = F.leaky_relu(x.view(clips, rows, channels).transpose(1, 2), 0.1)  # as a batch of clips of one length
        grown = F.conv_transpose1d(image, weight, bias, stride=stride, padding=(taps - stride) // 2)
        return grown.transpose(1, 2).reshape(total * stride, out)

    providers: dict[str, Any] = {"ours": ours, "torch": library}
    if device.type == "cuda":
        providers["torch.compile"] = torch.compile(library, dynamic=False)
    return Case(
        f"{channels} → {out}, × {stride}, {clips} × {rows} rows",
        inputs,
        providers,
        operations=2.0 * total * channels * out * taps,
        least_bytes=float((total * (channels + stride * out) + channels * out * taps) * dtype.itemsize),
    )


if __name__ == "__main__":
    main("conv_transpose1d", cases)
