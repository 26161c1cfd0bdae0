"""Waveforms of packed clips equal the reference's for each alone, to their last sample and for any windows."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from seamless_engine import NumericalError
from seamless_engine.config import EngineConfig
from seamless_engine.model_runner import ModelRunner
from seamless_engine.models.hifi_gan import margins
from seamless_engine.models.layers import MAX_FRAMES
from seamless_engine.models.vocoder import Clips, Vocoder, Window
from support.models import parts
from support.on_cpu import bounds
from support.oracle import load
from tolerance import assert_spectrum_close, assert_waveform_close

LENGTHS = [1, 2, 7, 40, 3]


@dataclass(frozen=True)
class Batch:
    """Units of several clips, and the language, the speaker and the kind of durations of each."""

    units: list[torch.Tensor]
    languages: torch.Tensor
    speakers: torch.Tensor
    predicted: list[bool]

    def __getitem__(self, i: int) -> Batch:
        one = slice(i, i + 1)
        return Batch(self.units[one], self.languages[one], self.speakers[one], self.predicted[one])


def make_batch(folder: Path, seed: int, lengths: list[int], predicted: bool | None = None) -> Batch:
    config, generator, count = parts(folder).config, torch.Generator().manual_seed(seed), len(lengths)
    units = [torch.randint(config.unit_hifi_gan_vocab_size, (length,), generator=generator) for length in lengths]
    for clip in units:
        clip[len(clip) // 2] = config.t2u_pad_token_id  # a unit like any other inside a clip
    languages = torch.randint(config.vocoder_num_langs, (count,), generator=generator)
    speakers = torch.randint(config.vocoder_num_spkrs, (count,), generator=generator)
    kinds = [i % 2 == 0 if predicted is None else predicted for i in range(count)]
    return Batch(units, languages, speakers, kinds)


def vocoder_of(folder: Path) -> Vocoder:
    vocoder = parts(folder).vocoder
    assert vocoder is not None
    return vocoder


def clips_of(vocoder: Vocoder, batch: Batch) -> Clips:
    cu = bounds([len(clip) for clip in batch.units])
    return vocoder.clips(torch.cat(batch.units), cu, batch.languages, batch.speakers, batch.predicted)


@torch.inference_mode()
def waves(vocoder: Vocoder, batch: Batch) -> list[torch.Tensor]:
    clips = clips_of(vocoder, batch)
    samples = torch.cat([vocoder(clips, windows) for windows in vocoder.passes(clips)])
    return list(samples.split([(b - a) * vocoder.samples_per_frame for a, b in pairwise(clips.bounds)]))


@torch.inference_mode()
def reference(folder: Path, batch: Batch) -> torch.Tensor:
    """The waveform of a single clip."""
    model = load(folder).model.vocoder
    with pytest.MonkeyPatch.context() as patch:
        if not batch.predicted[0]:
            patch.setattr(model.dur_predictor, "forward", lambda x: torch.zeros(x.shape[:2]))
        return model(batch.units[0][None], batch.speakers.view(1, 1), batch.languages.view(1, 1))[0][0]


@pytest.mark.parametrize("seed", range(3))
def test_vocoder_equals_the_reference_for_clips_of_several_voices(checkpoint: Callable[[int], Path], seed: int) -> None:
    folder = checkpoint(seed)
    batch = make_batch(folder, seed, LENGTHS)
    for i, wave in enumerate(waves(vocoder_of(folder), batch)):
        assert_waveform_close(wave, reference(folder, batch[i]))


@pytest.mark.parametrize("seed,length", [(0, 3000), (1, 700), (2, 257)])
def test_vocoder_equals_the_reference_for_long_clips_in_the_memory_of_one_window(
    checkpoint: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, seed: int, length: int
) -> None:
    folder = checkpoint(seed)
    vocoder = vocoder_of(folder)
    batch = make_batch(folder, seed, [length], predicted=False)
    frames: list[int] = []
    last = vocoder.generator.conv_post

    def noted(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        frames.append(len(x))
        return last(x, *args, **kwargs)

    monkeypatch.setattr(vocoder.generator, "conv_post", noted)
    [wave] = waves(vocoder, batch)
    assert_waveform_close(wave, reference(folder, batch))
    assert len(frames) == -(-length // vocoder.window)
    assert max(frames) <= (vocoder.window + 2 * vocoder.generator.margins[0]) * vocoder.samples_per_frame


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_vocoder_in_16_bits_changes_the_spectrum_little(
    checkpoint: Callable[[int], Path], seed: int, dtype: torch.dtype
) -> None:
    folder = checkpoint(seed)
    config = parts(folder).config
    options = EngineConfig(max_num_seqs=1, num_slots=32)
    vocoder = ModelRunner(folder, config, options, ("t2st",), torch.device("cpu"), dtype).vocoder
    assert vocoder is not None and vocoder.unit_embedding.dtype == dtype
    batch = make_batch(folder, seed, [60], predicted=False)
    [wave], [exact] = waves(vocoder, batch), waves(vocoder_of(folder), batch)
    assert wave.dtype == torch.float32
    assert_spectrum_close(wave, exact, dtype)


def test_vocoder_is_batch_invariant(checkpoint: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoint(0)
    vocoder = vocoder_of(folder)
    monkeypatch.setattr(vocoder, "window", 60)
    lengths = [*LENGTHS, 150]
    batch = make_batch(folder, 3, lengths)
    alone = [waves(vocoder, batch[i])[0] for i in range(len(lengths))]
    rng = random.Random(0)
    for _ in range(4):
        order = rng.sample(range(len(lengths)), rng.randint(2, len(lengths)))
        mixed = Batch(
            [batch.units[i] for i in order],
            batch.languages[order],
            batch.speakers[order],
            [batch.predicted[i] for i in order],
        )
        for i, wave in zip(order, waves(vocoder, mixed), strict=True):
            assert torch.equal(wave, alone[i])


@pytest.mark.parametrize("seed", range(3))
def test_vocoder_windows_change_no_more_than_the_last_bits(checkpoint: Callable[[int], Path], seed: int) -> None:
    """Wherever the windows are, they have all the context that their samples depend on."""
    folder = checkpoint(seed)
    vocoder = vocoder_of(folder)
    batch = make_batch(folder, seed, [300], predicted=False)
    clips = clips_of(vocoder, batch)
    with torch.inference_mode():
        uncut = vocoder(clips, [Window(0, 0, 300)])
        for windows in (
            [Window(0, start, start + 1) for start in (0, 1, 17, 150, 299)],
            [Window(0, 0, 60), Window(0, 60, 200), Window(0, 290, 300)],
        ):
            expected = [uncut[w.start * vocoder.samples_per_frame : w.end * vocoder.samples_per_frame] for w in windows]
            assert_waveform_close(vocoder(clips, windows), torch.cat(expected))


@pytest.mark.parametrize("seed", range(3))
def test_margins_are_the_frames_that_a_sample_depends_on(checkpoint: Callable[[int], Path], seed: int) -> None:
    """A unit changes samples up to a margin of frames away; rounding makes the margin at most two frames too large."""
    folder = checkpoint(seed)
    vocoder = vocoder_of(folder)
    margin, rate = vocoder.generator.margins[0], vocoder.samples_per_frame
    assert vocoder.generator.margins == margins(parts(folder).config)
    batch = make_batch(folder, seed, [2 * margin + 21], predicted=False)
    middle = margin + 10
    with torch.inference_mode():
        one = waves(vocoder, batch)[0]
        batch.units[0][middle] = (batch.units[0][middle] + 1) % parts(folder).config.unit_hifi_gan_vocab_size
        changed = (one != waves(vocoder, batch)[0]).view(-1, rate).any(1).nonzero()[:, 0]
    assert middle - margin <= changed.min() <= middle - margin + 2
    assert middle + margin - 2 <= changed.max() <= middle + margin


def test_passes_have_all_windows_in_order_and_no_more_frames_than_allowed(
    checkpoint: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    vocoder = vocoder_of(checkpoint(0))
    monkeypatch.setattr(vocoder, "window", 10)
    monkeypatch.setattr(vocoder, "pass_frames", 25)
    empty = torch.zeros(0, dtype=torch.int64)
    passes = list(vocoder.passes(Clips(empty, [0, 4, 27, 37, 38], empty, empty)))
    assert all(sum(w.end - w.start for w in windows) <= 25 for windows in passes)
    flat = [tuple(w) for windows in passes for w in windows]
    assert flat == [(0, 0, 4), (1, 0, 10), (1, 10, 20), (1, 20, 23), (2, 0, 10), (3, 0, 1)] and len(passes) == 2


def test_clips_without_predicted_durations_do_not_run_the_predictor(
    checkpoint: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint(0)
    vocoder = vocoder_of(folder)
    monkeypatch.setattr(vocoder, "durations", None)
    clips = clips_of(vocoder, make_batch(folder, 0, LENGTHS, predicted=False))
    assert clips.bounds[-1] == sum(LENGTHS)


@pytest.mark.parametrize("duration,message", [(0, "NaN"), (MAX_FRAMES, "frames")])
def test_clips_raises_for_durations_that_cannot_be(
    checkpoint: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, duration: int, message: str
) -> None:
    folder = checkpoint(0)
    vocoder = vocoder_of(folder)
    monkeypatch.setattr(vocoder, "durations", lambda x, cu_seqlens: torch.full((len(x),), duration))
    with pytest.raises(NumericalError, match=message):
        clips_of(vocoder, make_batch(folder, 0, [2], predicted=True))
