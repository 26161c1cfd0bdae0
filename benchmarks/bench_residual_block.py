"""residual_block at the five stages of the vocoder, the last block of three, clips of 10 s packed.

Operations: 2 · k · dim² a row in each of six convolutions. Least bytes: x, the sum of the other blocks and the weights
read, y written. Before the times: the bytes that the stages of a vocoder move for a second of audio, by what is fused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.common import print_table
from benchmarks.kernel_bench import Case, main
from seamless_kernels.config import config_for
from seamless_kernels.residual_block import pack_residual_block, reference, residual_block

STAGES = {256: 250, 128: 1000, 64: 4000, 32: 8000, 16: 16_000}  # channels → rows of a second
TAPS, DILATIONS, SLOPE, SECONDS = (3, 7, 11), (1, 3, 5), 0.1, 10
TUNE = {"PAIRS": (1, 3), "HEIGHT": (128, 256, 512, 1024), "PROGRAMS": (1, 2)}


def traffic(passes: Callable[[int], int], itemsize: int = 2) -> float:
    """Bytes of a second of audio, if a stage of `dim` channels reads or writes its activations `passes(dim)` times."""
    return float(sum(dim * rate * itemsize * passes(dim) for dim, rate in STAGES.items()))


def passes(pairs_of_a_kernel: int) -> int:
    """Of a stage: its input is written, each kernel reads and writes, two blocks add the sum of those before them."""
    return 1 + len(TAPS) * 2 * len(DILATIONS) // pairs_of_a_kernel + 2


def traffic_by_fusion(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """What is one kernel → bytes for a second of audio."""
    pairs = len(TAPS) * len(DILATIONS)
    # leaky, conv, leaky, conv read and write; the residual reads two and writes one, as do two sums; a division
    eager = 1 + pairs * (4 * 2 + 3) + 2 * 3 + 2
    # conv1 reads and writes, conv2 reads the residual too; the sums are in the last of them
    convolution = 1 + pairs * (2 + 3) + 2
    return {
        "one operation": traffic(lambda _: eager),
        "a convolution": traffic(lambda _: convolution),
        "a pair": traffic(lambda _: passes(1)),
        "a block": traffic(lambda _: passes(3)),
        "as configured": traffic(lambda dim: passes(config_for("residual_block", (dim,), dtype, device)["PAIRS"])),
    }


def cases(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[Case]:
    for dim, rate in list(STAGES.items())[:2] if quick else STAGES.items():
        for taps in (3,) if quick else TAPS:
            for clips in (1,) if quick else (1, 8, 64):
                yield case(dim, rate * SECONDS, taps, clips, device, dtype)


def case(dim: int, rows: int, taps: int, clips: int, device: torch.device, dtype: torch.dtype) -> Case:
    total = clips * rows

    def inputs() -> tuple[Any, ...]:
        x, others = (torch.randn(total, dim, device=device).to(dtype) for _ in range(2))
        weights = [(torch.randn(dim, dim, taps, device=device) / (dim * taps) ** 0.5).to(dtype) for _ in range(6)]
        bounds = torch.arange(clips + 1, dtype=torch.int32, device=device) * rows
        return x, others, weights, pack_residual_block(weights), torch.randn(6, dim, device=device).to(dtype), bounds

    def with_packed(call: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def run(
            x: torch.Tensor, others: torch.Tensor, _: Any, packed: torch.Tensor, biases: torch.Tensor, bounds: Any
        ) -> torch.Tensor:
            options = {"dilations": DILATIONS, "leaky_slope": SLOPE, "total": others, "scale": 1 / 3}
            return call(x, packed, biases, bounds, **options)

        return run

    def library(
        x: torch.Tensor, others: torch.Tensor, weights: list[torch.Tensor], _: Any, biases: torch.Tensor, __: Any
    ) -> torch.Tensor:
        image = x.view(clips, rows, dim).transpose(1, 2)  # as a batch of clips of one length
        for i, dilation in enumerate(DILATIONS):
            h, padding = F.leaky_relu(image, SLOPE), taps // 2 * dilation
            h = F.leaky_relu(F.conv1d(h, weights[2 * i], biases[2 * i], padding=padding, dilation=dilation), SLOPE)
            image = image + F.conv1d(h, weights[2 * i + 1], biases[2 * i + 1], padding=taps // 2)
        return (others + image.transpose(1, 2).reshape(total, dim)) / 3

    providers: dict[str, Any] = {"ours": with_packed(residual_block), "conv1d": with_packed(reference)}
    providers["torch"] = library
    if device.type == "cuda":
        providers["torch.compile"] = torch.compile(library, dynamic=False)
    return Case(
        f"{dim} channels, k = {taps}, {clips} × {rows} rows",
        inputs,
        providers,
        operations=2.0 * total * dim * dim * taps * 6,
        least_bytes=float((3 * total * dim + 6 * dim * dim * taps) * dtype.itemsize),
    )


if __name__ == "__main__":
    found = traffic_by_fusion(torch.device("cuda" if torch.cuda.is_available() else "cpu"), torch.bfloat16)
    print_table(["one kernel is", "MB a second of audio"], [[name, found[name] / 1e6] for name in found])
    main("residual_block", cases)
