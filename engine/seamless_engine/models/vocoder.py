"""Unit HiFi-GAN: units, a language and a speaker → 16 kHz samples, 320 for each frame of a unit.

A clip is computed in windows of frames. A window is read with the context that its samples depend on; beyond the ends
of the clip every layer reads zeros. So the memory of a pass does not grow with the length of a clip, and a clip that is
streamed window by window has the same samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import torch

from seamless_engine.config import ModelConfig
from seamless_engine.models.hifi_gan import Generator, PackedWindows
from seamless_engine.models.layers import Launch, VariancePredictor, Weights, by_host, frame_counts
from seamless_kernels.transfer import upload

# Frames of a window, and of a pass of windows. With the published dims, the context is 21 frames on either side, and a
# tensor has 20 KB for each frame.
_CPU_WINDOW, _CPU_PASS = 512, 1
_GPU_WINDOW, _GPU_PASS = 1024, 20_480


@dataclass(frozen=True)
class Clips:
    """n clips, packed: the unit of each frame, int64 [total].

    bounds: n + 1 numbers on the host. languages, speakers: int64 [n], indices of the embedding tables.
    """

    units: torch.Tensor
    bounds: list[int]
    languages: torch.Tensor
    speakers: torch.Tensor


class Window(NamedTuple):
    """Frames `start` to `end` of a clip."""

    clip: int
    start: int
    end: int


class Vocoder:
    def __init__(self, weights: Weights, config: ModelConfig, launch: Launch = by_host) -> None:
        self.durations = launch(VariancePredictor(weights.at("dur_predictor")))
        self.unit_embedding = weights.tensor("unit_embedding.weight")
        self.speaker_embedding = weights.tensor("speaker_embedding.weight")
        self.language_embedding = weights.tensor("language_embedding.weight")
        self.generator = Generator(weights.at("hifi_gan"), config)
        self.samples_per_frame = config.samples_per_frame
        self.generate_clips = launch(self.generator, lambda frames, _: frames * config.samples_per_frame)
        on_cpu = self.unit_embedding.device.type == "cpu"
        self.window, self.pass_frames = (_CPU_WINDOW, _CPU_PASS) if on_cpu else (_GPU_WINDOW, _GPU_PASS)

    def clips(
        self,
        units: torch.Tensor,
        cu_seqlens: torch.Tensor,
        languages: torch.Tensor,
        speakers: torch.Tensor,
        predicted: Sequence[bool],
    ) -> Clips:
        """The frames of n clips. units: int64 [total]; languages, speakers: int64 [n].

        predicted: whether the units of a clip have the durations of the predictor, or one frame each.
        Waits for the device once, for the durations. Raises NumericalError for durations that cannot be.
        """
        durations = torch.ones_like(units)
        if any(predicted):
            (chosen,) = upload(units.device, np.array(predicted))
            chosen = chosen.repeat_interleave(cu_seqlens.diff().long(), output_size=len(units))
            durations = torch.where(chosen, self.durations(self.unit_embedding[units], cu_seqlens), durations)
        bounds = [0, *accumulate(frame_counts(durations, cu_seqlens))]
        frames = units.repeat_interleave(durations, output_size=bounds[-1])
        return Clips(frames, bounds, languages, speakers)

    def passes(self, clips: Clips) -> Iterator[list[Window]]:
        """The windows of all clips in order, as many in a pass as `pass_frames` allows."""
        windows: list[Window] = []
        for clip, (first, last) in enumerate(pairwise(clips.bounds)):
            for start in range(0, last - first, self.window):
                window = Window(clip, start, min(start + self.window, last - first))
                if windows and sum(w.end - w.start for w in windows) + window.end - start > self.pass_frames:
                    yield windows
                    windows = []
                windows.append(window)
        if windows:
            yield windows

    def __call__(self, clips: Clips, windows: Sequence[Window]) -> torch.Tensor:
        """The samples of the windows, one after another: float32 [frames of all windows · samples_per_frame]."""
        device, margin = clips.units.device, self.generator.margins[0]
        context = []
        spans = []
        for clip, start, end in windows:
            first, last = clips.bounds[clip : clip + 2]
            before, after = min(start, margin), min(last - first - end, margin)
            context.append((before, after))
            spans.append(clips.units[first + start - before : first + end + after])
        units = torch.cat(spans)
        bounds = [0, *accumulate(map(len, spans))]
        (clip_of,) = upload(device, np.repeat([window.clip for window in windows], np.diff(bounds)))
        language = self.language_embedding[clips.languages[clip_of]]
        speaker = self.speaker_embedding[clips.speakers[clip_of]]
        x = torch.cat([language, self.unit_embedding[units], speaker], dim=1)
        packed = PackedWindows.of(x, bounds, context)
        if any(map(any, context)) or device.type == "cpu":
            return self.generator.windows(packed)
        return self.generate_clips(x, packed.cu_seqlens)
