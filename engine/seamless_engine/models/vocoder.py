"""Unit HiFi-GAN: units, a language and a voice → 16 kHz samples, 320 a unit frame.

A clip is made in windows of frames, each read with as many frames around it as its samples depend on. What a window
reads beyond the ends of the clip is zero in every layer; what it computes beyond its own needs is dropped on the way.
So long clips need no more memory than short ones, and a clip that is wanted piece by piece gets the same samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch

from seamless_engine.config import ModelConfig
from seamless_engine.models.hifi_gan import Generator, Rows
from seamless_engine.models.layers import Network, VariancePredictor, Weights, frame_counts

# Frames of a window, and of a pass of windows. With the published dims 21 frames on either side are made for nothing,
# and a tensor has 20 KB a frame.
_WINDOW = {"cpu": 512, "cuda": 1024}
_PASS = {"cpu": 1, "cuda": 16_384}


@dataclass(frozen=True)
class Clips:
    """Units int64 [total] of the packed frames of n clips, and the voice of each.

    bounds: n + 1 numbers on the host. languages, speakers: int64 [n].
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
    def __init__(self, weights: Weights, config: ModelConfig) -> None:
        self.durations: Network = VariancePredictor(weights.at("dur_predictor"))
        self.unit_embedding = weights.tensor("unit_embedding.weight")
        self.speaker_embedding = weights.tensor("speaker_embedding.weight")
        self.language_embedding = weights.tensor("language_embedding.weight")
        self.generator = Generator(weights.at("hifi_gan"), config)
        self.whole: Network = self.generator  # of clips that are a window each
        self.samples_per_frame = config.samples_per_frame
        device = self.unit_embedding.device.type
        self.window, self.pass_frames = _WINDOW[device], _PASS[device]

    def clips(
        self,
        units: torch.Tensor,
        cu_seqlens: torch.Tensor,
        languages: torch.Tensor,
        speakers: torch.Tensor,
        predicted: Sequence[bool],
    ) -> Clips:
        """units int64 [total] of n clips, languages and speakers int64 [n].

        predicted: whether a clip's units last as long as the predictor here says, or one frame each.
        Lengths are read back here, once. Raises NumericalError for durations that are none.
        """
        durations = torch.ones_like(units)
        if any(predicted):
            wanted = torch.tensor(predicted, device=units.device)
            wanted = wanted.repeat_interleave(cu_seqlens.diff().long(), output_size=len(units))
            durations = torch.where(wanted, self.durations(self.unit_embedding[units], cu_seqlens), durations)
        bounds = [0, *accumulate(frame_counts(durations, cu_seqlens))]
        return Clips(units.repeat_interleave(durations, output_size=bounds[-1]), bounds, languages, speakers)

    def passes(self, clips: Clips) -> Iterator[list[Window]]:
        """The windows of all clips in order, as many together as a pass takes."""
        chosen: list[Window] = []
        for clip, (first, last) in enumerate(pairwise(clips.bounds)):
            for start in range(0, last - first, self.window):
                window = Window(clip, start, min(start + self.window, last - first))
                if chosen and sum(w.end - w.start for w in chosen) + window.end - start > self.pass_frames:
                    yield chosen
                    chosen = []
                chosen.append(window)
        if chosen:
            yield chosen

    def __call__(self, clips: Clips, windows: Sequence[Window]) -> torch.Tensor:
        """The samples of the windows, one after another: float32 [frames of all · samples_per_frame]."""
        device, margin = clips.units.device, self.generator.margins[0]
        around = []  # of the frames that the samples of a window depend on, those that its clip has
        spans = []
        for clip, start, end in windows:
            first, last = clips.bounds[clip : clip + 2]
            before, after = min(start, margin), min(last - first - end, margin)
            around.append((before, after))
            spans.append(clips.units[first + start - before : first + end + after])
        units = torch.cat(spans)
        bounds = [0, *accumulate(map(len, spans))]
        clip = torch.tensor([window.clip for window in windows])
        owner = torch.repeat_interleave(clip, torch.tensor(bounds).diff(), output_size=bounds[-1]).to(device)
        language = self.language_embedding[clips.languages[owner]]
        speaker = self.speaker_embedding[clips.speakers[owner]]
        x = torch.cat([language, self.unit_embedding[units], speaker], dim=1)
        rows = Rows.of(x, bounds, around)
        windowed = any(map(any, around)) or device.type == "cpu"
        return self.generator.within(rows) if windowed else self.whole(x, rows.cu_seqlens)
