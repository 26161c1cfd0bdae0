"""The speech encoder on packed clips equals the reference on each clip alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seamless_kernels.fbank import fbank
from support.audio import clip_of_frames
from support.models import parts
from support.oracle import load
from tolerance import assert_model_close


@pytest.mark.parametrize("seed", range(3))
def test_every_length_class_packed(checkpoint: Callable[[int], Path], seed: int) -> None:
    folder = checkpoint(seed)
    encoder = parts(folder).speech_encoder
    assert encoder is not None
    clips = [clip_of_frames(frames, frames) for frames in (*range(32, 48), 2, 3, 17, 150)]
    packed = torch.cat([torch.from_numpy(clip) for clip in clips])
    with torch.inference_mode():
        encodings, bounds = encoder(*fbank(packed, [0, *itertools.accumulate(map(len, clips))]))
    for i, clip in enumerate(clips):
        mine = encodings[bounds[i] : bounds[i + 1]]
        reference = load(folder).speech_encoder(clip)
        # The reference has one row more where the half-real frame starts a vector of its own; nobody attends to it.
        assert len(mine) <= len(reference) <= len(mine) + 1
        assert_model_close(mine, reference[: len(mine)], torch.float32)
