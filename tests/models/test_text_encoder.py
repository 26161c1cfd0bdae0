"""The text encoder on packed sentences equals the reference on each alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from support.models import parts
from support.on_cpu import bounds
from support.oracle import load
from tolerance import assert_model_close


@pytest.mark.parametrize("seed", range(3))
def test_text_encoder_equals_the_reference(checkpoint: Callable[[int], Path], seed: int) -> None:
    folder = checkpoint(seed)
    encoder = parts(folder).text_encoder
    assert encoder is not None
    generator = torch.Generator().manual_seed(seed)
    sentences = [torch.randint(4, 200, (length,), generator=generator).tolist() for length in (1, 2, 9, 40, 3)]
    lengths = [len(sentence) for sentence in sentences]
    with torch.inference_mode():
        packed = encoder(torch.tensor([token for sentence in sentences for token in sentence]), bounds(lengths))
    for sentence, states in zip(sentences, packed.split(lengths), strict=True):
        assert_model_close(states, load(folder).text_encoder(sentence), torch.float32)
