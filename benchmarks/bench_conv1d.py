"""conv1d outside of the residual blocks: T2U's layers and the ends of the vocoder, clips of 10 s packed.

Operations: 2 · k · in · out a row. Least bytes: x and the weight read, y written. The residual blocks have their own
benchmark.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from benchmarks.kernel_bench import Case, main
from seamless_kernels.conv1d import conv1d, pack_conv_weight


class Convolution(NamedTuple):
    name: str
    channels: int
    out: int
    taps: int
    rows: int  # of a clip of 10 s
    leaky_slope: float | None = None
    wide: bool = False  # weight and result float32


CONVOLUTIONS = (
    Convolution("T2U layer", 1024, 1024, 7, 500, 0.0),
    Convolution("T2U durations", 1024, 256, 3, 120, wide=True),
    Convolution("vocoder durations", 1280, 1280, 3, 500, wide=True),
    Convolution("vocoder first", 1792, 512, 7, 500),
    Convolution("vocoder last", 16, 1, 7, 160_000, 0.01, wide=True),
)


def cases(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[Case]:
    for convolution in CONVOLUTIONS[3:] if quick else CONVOLUTIONS:
        for clips in (1,) if quick else (1, 8, 64):
            yield case(convolution, clips, device, dtype)


def case(convolution: Convolution, clips: int, device: torch.device, dtype: torch.dtype) -> Case:
    name, channels, out, taps, rows, slope, wide = convolution
    total, precision = clips * rows, torch.float32 if wide else dtype

    def inputs() -> tuple[Any, ...]:
        x = torch.randn(total, channels, device=device).to(dtype)
        weight = (torch.randn(out, channels, taps, device=device) / (channels * taps) ** 0.5).to(precision)
        bounds = torch.arange(clips + 1, dtype=torch.int32, device=device) * rows
        return x, weight, pack_conv_weight(weight), torch.randn(out, device=device).to(precision), bounds

    def ours(x: torch.Tensor, _: Any, packed: torch.Tensor, bias: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
        return conv1d(x, packed, bias, bounds, leaky_slope=slope)

    def library(x: torch.Tensor, weight: torch.Tensor, _: Any, bias: torch.Tensor, __: Any) -> torch.Tensor:
        image = x.to(precision).view(clips, rows, channels).transpose(1, 2)  # as a batch of clips of one length
        image = image if slope is None else F.leaky_relu(image, slope)
        return F.conv1d(image, weight, bias, padding=taps // 2).transpose(1, 2).reshape(total, out)

    providers: dict[str, Any] = {"ours": ours, "torch": library}
    if device.type == "cuda":
        providers["torch.compile"] = torch.compile(library, dynamic=False)
    return Case(
        f"{name} {channels} → {out}, {clips} × {rows} rows",
        inputs,
        providers,
        operations=2.0 * total * channels * out * taps,
        least_bytes=float(total * (channels * dtype.itemsize + out * precision.itemsize))
        + channels * out * taps * precision.itemsize,
    )


if __name__ == "__main__":
    main("conv1d", cases)
