"""Waveforms of packed unit sequences equal the reference's for each alone, tails included, however they are cut."""

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
from support.oracle import load
from support.packed import bounds
from tolerance import assert_spectrum_close, assert_waveform_close

LENGTHS = [1, 2, 7, 40, 3]


@dataclass(frozen=True)
class Voiced:
    """Units of several clips, and the language, the voice and the kind of durations of each."""

    units: list[torch.Tensor]
    languages: torch.Tensor
    speakers: torch.Tensor
    predicted: list[bool]

    def __getitem__(self, i: int) -> Voiced:
        one = slice(i, i + 1)
        return Voiced(self.units[one], self.languages[one], self.speakers[one], self.predicted[one])


def voiced(folder: Path, seed: int, lengths: list[int], predicted: bool | None = None) -> Voiced:
    config, generator, count = parts(folder).config, torch.Generator().manual_seed(seed), len(lengths)
    units = [torch.randint(config.unit_hifi_gan_vocab_size, (length,), generator=generator) for length in lengths]
    for clip in units:
        clip[len(clip) // 2] = config.t2u_pad_token_id  # inside a clip it is a unit like any other
    languages = torch.randint(config.vocoder_num_langs, (count,), generator=generator)
    speakers = torch.randint(config.vocoder_num_spkrs, (count,), generator=generator)
    kinds = [i % 2 == 0 if predicted is None else predicted for i in range(count)]
    return Voiced(units, languages, speakers, kinds)


def vocoder_of(folder: Path) -> Vocoder:
    vocoder = parts(folder).vocoder
    assert vocoder is not None
    return vocoder


def clips_of(vocoder: Vocoder, v: Voiced) -> Clips:
    cu = bounds([len(clip) for clip in v.units])
    return vocoder.clips(torch.cat(v.units), cu, v.languages, v.speakers, v.predicted)


@torch.inference_mode()
def waves(vocoder: Vocoder, v: Voiced) -> list[torch.Tensor]:
    clips = clips_of(vocoder, v)
    samples = torch.cat([vocoder(clips, windows) for windows in vocoder.passes(clips)])
    return list(samples.split([(b - a) * vocoder.samples_per_frame for a, b in pairwise(clips.bounds)]))


@torch.inference_mode()
def reference(folder: Path, v: Voiced) -> torch.Tensor:
    """Of a single clip."""
    model = load(folder).model.vocoder
    with pytest.MonkeyPatch.context() as patch:
        if not v.predicted[0]:
            patch.setattr(model.dur_predictor, "forward", lambda x: torch.zeros(x.shape[:2]))
        return model(v.units[0][None], v.speakers.view(1, 1), v.languages.view(1, 1))[0][0]


@pytest.mark.parametrize("seed", range(3))
def test_packed_clips_with_mixed_voices_equal_the_reference(checkpoint: Callable[[int], Path], seed: int) -> None:
    folder = checkpoint(seed)
    v = voiced(folder, seed, LENGTHS)
    for i, wave in enumerate(waves(vocoder_of(folder), v)):
        assert_waveform_close(wave, reference(folder, v[i]))


@pytest.mark.parametrize("seed,length", [(0, 3000), (1, 700), (2, 257)])
def test_long_clips_equal_the_reference_in_the_memory_of_one_window(
    checkpoint: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, seed: int, length: int
) -> None:
    folder = checkpoint(seed)
    vocoder = vocoder_of(folder)
    v = voiced(folder, seed, [length], predicted=False)
    rows: list[int] = []
    last = vocoder.generator.conv_post

    def noted(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        rows.append(len(x))
        return last(x, *args, **kwargs)

    monkeypatch.setattr(vocoder.generator, "conv_post", noted)
    [wave] = waves(vocoder, v)
    assert_waveform_close(wave, reference(folder, v))
    assert len(rows) == -(-length // vocoder.window)
    assert max(rows) <= (vocoder.window + 2 * vocoder.generator.margins[0]) * vocoder.samples_per_frame


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_16_bit_weights_change_little_of_the_spectrum(
    checkpoint: Callable[[int], Path], seed: int, dtype: torch.dtype
) -> None:
    folder = checkpoint(seed)
    config = parts(folder).config
    options = EngineConfig(max_num_seqs=1, num_slots=32)
    vocoder = ModelRunner(folder, config, options, ("t2st",), torch.device("cpu"), dtype).vocoder
    assert vocoder is not None and vocoder.unit_embedding.dtype == dtype
    v = voiced(folder, seed, [60], predicted=False)
    [wave], [exact] = waves(vocoder, v), waves(vocoder_of(folder), v)
    assert wave.dtype == torch.float32
    assert_spectrum_close(wave, exact, dtype)


def test_a_clip_does_not_feel_its_neighbours(
    checkpoint: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint(0)
    vocoder = vocoder_of(folder)
    monkeypatch.setattr(vocoder, "window", 60)
    lengths = [*LENGTHS, 150]
    v = voiced(folder, 3, lengths)
    alone = [waves(vocoder, v[i])[0] for i in range(len(lengths))]
    rng = random.Random(0)
    for _ in range(4):
        order = rng.sample(range(len(lengths)), rng.randint(2, len(lengths)))
        mixed = Voiced(
            [v.units[i] for i in order], v.languages[order], v.speakers[order], [v.predicted[i] for i in order]
        )
        for i, wave in zip(order, waves(vocoder, mixed), strict=True):
            assert torch.equal(wave, alone[i])


@pytest.mark.parametrize("seed", range(3))
def test_windows_change_no_more_than_the_last_bits(checkpoint: Callable[[int], Path], seed: int) -> None:
    """Of a sample's neighbourhood nothing is missing, wherever the windows are."""
    folder = checkpoint(seed)
    vocoder = vocoder_of(folder)
    v = voiced(folder, seed, [300], predicted=False)
    clips = clips_of(vocoder, v)
    with torch.inference_mode():
        whole = vocoder(clips, [Window(0, 0, 300)])
        for windows in (
            [Window(0, start, start + 1) for start in (0, 1, 17, 150, 299)],
            [Window(0, 0, 60), Window(0, 60, 200), Window(0, 290, 300)],
        ):
            expected = [whole[w.start * vocoder.samples_per_frame : w.end * vocoder.samples_per_frame] for w in windows]
            assert_waveform_close(vocoder(clips, windows), torch.cat(expected))


@pytest.mark.parametrize("seed", range(3))
def test_margins_are_what_a_sample_depends_on(checkpoint: Callable[[int], Path], seed: int) -> None:
    """A unit changes samples up to that many frames from its own; at most two of them are too many, by rounding."""
    folder = checkpoint(seed)
    vocoder = vocoder_of(folder)
    margin, rate = vocoder.generator.margins[0], vocoder.samples_per_frame
    assert vocoder.generator.margins == margins(parts(folder).config)
    v = voiced(folder, seed, [2 * margin + 21], predicted=False)
    middle = margin + 10
    with torch.inference_mode():
        one = waves(vocoder, v)[0]
        v.units[0][middle] = (v.units[0][middle] + 1) % parts(folder).config.unit_hifi_gan_vocab_size
        changed = (one != waves(vocoder, v)[0]).view(-1, rate).any(1).nonzero()[:, 0]
    assert middle - margin <= changed.min() <= middle - margin + 2
    assert middle + margin - 2 <= changed.max() <= middle + margin


def test_passes_take_all_windows_in_order_and_no_more_frames_than_allowed(
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


def test_the_predictor_does_not_run_for_clips_that_do_not_want_it(
    checkpoint: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint(0)
    vocoder = vocoder_of(folder)
    monkeypatch.setattr(vocoder, "durations", None)
    clips = clips_of(vocoder, voiced(folder, 0, LENGTHS, predicted=False))
    assert clips.bounds[-1] == sum(LENGTHS)


@pytest.mark.parametrize("duration,message", [(0, "NaN"), (MAX_FRAMES, "frames")])
def test_durations_that_are_none_are_an_error(
    checkpoint: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, duration: int, message: str
) -> None:
    folder = checkpoint(0)
    vocoder = vocoder_of(folder)
    monkeypatch.setattr(vocoder, "durations", lambda x, cu_seqlens: torch.full((len(x),), duration))
    with pytest.raises(NumericalError, match=message):
        clips_of(vocoder, voiced(folder, 0, [2], predicted=True))
