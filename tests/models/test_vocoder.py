"""Waveforms of packed unit sequences equal the reference's for each alone, tails included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seamless_engine import NumericalError
from seamless_engine.models.layers import MAX_FRAMES
from support.models import parts
from support.oracle import load
from support.packed import bounds
from tolerance import assert_waveform_close


@pytest.mark.parametrize("seed", range(3))
def test_packed_clips_with_mixed_voices(checkpoint: Callable[[int], Path], seed: int) -> None:
    folder = checkpoint(seed)
    runner = parts(folder)
    vocoder, config = runner.vocoder, runner.config
    assert vocoder is not None
    generator = torch.Generator().manual_seed(seed)
    lengths = [1, 2, 7, 40, 3]
    high = config.unit_hifi_gan_vocab_size
    clips = [torch.randint(0, high, (length,), generator=generator) for length in lengths]
    clips[2][3] = config.t2u_pad_token_id  # inside a clip it is a unit like any other
    languages = torch.randint(config.vocoder_num_langs, (5,), generator=generator)
    speakers = torch.randint(config.vocoder_num_spkrs, (5,), generator=generator)
    with torch.inference_mode():
        waves = vocoder(torch.cat(clips), bounds(lengths), languages, speakers, torch.ones(5, dtype=torch.bool))
        for i, wave in enumerate(waves):
            reference, _ = load(folder).model.vocoder(clips[i][None], speakers[i].view(1, 1), languages[i].view(1, 1))
            assert_waveform_close(wave, reference[0])
            alone = vocoder(
                clips[i], bounds([lengths[i]]), languages[i : i + 1], speakers[i : i + 1], torch.tensor([True])
            )[0]
            assert torch.equal(wave, alone)


def test_a_predictor_that_runs_away_is_an_error(
    checkpoint: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    vocoder = parts(checkpoint(0)).vocoder
    assert vocoder is not None
    monkeypatch.setattr(vocoder, "durations", lambda x, cu_seqlens: torch.full((len(x),), MAX_FRAMES))
    one = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(NumericalError, match="frames"):
        vocoder(torch.tensor([5, 6]), bounds([2]), one, one, torch.tensor([True]))
