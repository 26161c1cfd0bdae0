"""fbank of clips of 10 seconds: one, and as many as an encoder pass takes.

Operations: a real transform of 512 points and 80 filters, about 14,000 a frame. Least bytes: samples read, features
written. Both are far below what it takes: launches, and passes over float64 frames, are what there is to save.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.kernel_bench import Case, main
from seamless_kernels.fbank import NUM_MEL, fbank, frame_count, reference

SAMPLES = 160_000
TUNE = {"FRAMES": (2, 4, 8), "MEL_FRAMES": (4, 8, 16), "CLIP_FRAMES": (64, 128, 256), "num_warps": (4, 8)}


def cases(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[Case]:
    """Samples and features are float32 whatever the model's dtype."""
    for clips in (1,) if quick else (1, 16, 256):
        bounds = [SAMPLES * i for i in range(clips + 1)]
        frames = clips * frame_count(SAMPLES)
        yield Case(
            f"{clips} × 10 s",
            lambda samples=clips * SAMPLES: (torch.rand(samples, device=device) * 2 - 1,),
            {
                "ours": lambda waveform, bounds=bounds: fbank(waveform, bounds),
                "torch": lambda waveform, bounds=bounds: reference(waveform, bounds),
            },
            operations=14_000.0 * frames,
            least_bytes=4.0 * (clips * SAMPLES + NUM_MEL * frames),
        )


if __name__ == "__main__":
    main("fbank", cases)
