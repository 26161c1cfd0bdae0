"""The speech encoder on packed clips equals the reference on each clip alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seamless_engine.models.lengths import encoder_length, packed_frames
from seamless_kernels.fbank import fbank
from support.audio import clip_of_frames
from support.models import parts
from support.oracle import load
from tolerance import assert_model_close


@pytest.mark.parametrize("seed", range(3))
def test_speech_encoder_equals_the_reference_at_every_length_class(
    checkpoint: Callable[[int], Path], seed: int
) -> None:
    folder = checkpoint(seed)
    encoder = parts(folder).speech_encoder
    assert encoder is not None
    clips = [clip_of_frames(frames, frames) for frames in (*range(32, 48), 2, 3, 17, 150)]
    packed = torch.cat([torch.from_numpy(clip) for clip in clips])
    lengths = [encoder_length(packed_frames(len(clip))[1], encoder.adapter.stride) for clip in clips]
    with torch.inference_mode():
        states = encoder(*fbank(packed, [0, *itertools.accumulate(map(len, clips))]), sum(lengths))
    for clip, own in zip(clips, states.split(lengths), strict=True):
        reference = load(folder).speech_encoder(clip)
        # The reference has one state more where the half-empty frame begins a patch of its own; it is never a key.
        assert len(own) <= len(reference) <= len(own) + 1
        assert_model_close(own, reference[: len(own)], torch.float32)
