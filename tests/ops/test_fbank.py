"""Filter-bank features against the published formula and transformers' feature extractor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import SeamlessM4TFeatureExtractor

from seamless_kernels import fbank as module
from seamless_kernels.fbank import MIN_SAMPLES, FbankOutput, fbank, frame_count, mel_filters
from support.packed import DEVICE
from tolerance import FEATURE_ATOL

pytestmark = pytest.mark.usefixtures("backend")
EXTRACTOR = SeamlessM4TFeatureExtractor()


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(samples, generator=generator) * 2 - 1


def speechlike(samples: int) -> torch.Tensor:
    """A chirp that swells, over a little noise."""
    time = torch.arange(samples) / 16000
    chirp = torch.sin(2 * torch.pi * (200 * time + 300 * time**2)) * torch.sin(3 * time) ** 2
    return 0.5 * chirp + 1e-3 * noise(samples)


def pack(clips: list[torch.Tensor]) -> FbankOutput:
    bounds = np.cumsum([0, *map(len, clips)])
    return fbank(torch.cat(clips).to(DEVICE), torch.from_numpy(bounds))


def last_bit_of_the_mean(clip: torch.Tensor) -> torch.Tensor:
    """Its effect on the features of each bin, [160], which is large where the bin hardly varies.

    torch sums in NumPy's order on a CPU only.
    """
    starts = 160 * torch.arange(frame_count(len(clip)))
    mean, deviation = module.clip_statistics(module.log_mel_energies(clip, starts))
    return (torch.finfo(torch.float32).eps * mean.abs() / deviation).repeat(2)


def test_fbank_of_a_chirp_has_the_published_values():
    n = np.arange(8000)
    phase = 2 * np.pi * (100 * n / 16000 + 1500 * (n / 16000) ** 2)
    clip = torch.from_numpy((0.3 * np.sin(phase) * (0.2 + 0.8 * n / 8000)).astype(np.float32))
    features, cu_seqlens, valid = pack([clip])
    assert (features.shape, cu_seqlens.tolist(), valid.tolist()) == ((24, 160), [0, 24], [24])
    expected_first = torch.tensor([1.907355, 3.2169402, 3.5671854, 3.3784132])
    expected_tenth = torch.tensor([0.39843097, 0.11245105, -0.28864247, -0.6062163])
    features = features.cpu()
    torch.testing.assert_close(features[0, :4], expected_first, atol=FEATURE_ATOL, rtol=0)
    torch.testing.assert_close(features[10, 80:84], expected_tenth, atol=FEATURE_ATOL, rtol=0)


@pytest.mark.parametrize("samples", [560, 719, 720, 880, 16000, 16160, 33333, 70001])
@pytest.mark.parametrize("signal", [noise, speechlike, torch.zeros])
def test_fbank_equals_transformers(samples, signal, backend):
    clip = signal(samples)
    expected = EXTRACTOR(clip.numpy(), sampling_rate=16000, return_tensors="pt")
    features, _, valid = pack([clip])
    assert int(valid) == int(expected["attention_mask"].sum())
    error = (features.cpu() - expected["input_features"][0]).abs()
    numpys_order = backend == "torch" and DEVICE.type == "cpu"
    assert (error <= FEATURE_ATOL + (0.0 if numpys_order else last_bit_of_the_mean(clip))).all(), error.max()


def test_mel_filters_are_triangles_in_mel():
    filters = mel_filters()
    touched = {j: np.flatnonzero(filters[:, j]).tolist() for j in (0, 1, 40, 79)}
    assert filters.shape == (257, 80)
    assert touched[0] == [1, 2] and touched[40] == [57, 58, 59, 60, 61] and touched[79] == list(range(240, 256))
    np.testing.assert_allclose(filters[1:3, 0], [0.503983, 0.135723], atol=1e-6)
    np.testing.assert_allclose(filters[2, 1], 0.864277, atol=1e-6)
    np.testing.assert_allclose(filters[57:60, 40], [0.218918, 0.62576, 0.972427], atol=1e-6)
    np.testing.assert_allclose(filters.sum(), 250.750822, atol=1e-6)
    assert not filters[[0, 256]].any() and filters.any(axis=0).all()


@pytest.mark.parametrize("seed", range(3))
def test_fbank_is_batch_invariant(seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(MIN_SAMPLES, 40000, (6,), generator=generator).tolist()
    clips = [noise(length, seed + i) for i, length in enumerate([MIN_SAMPLES, 719, *lengths])]
    features, cu_seqlens, valid = pack(clips)
    order = torch.randperm(len(clips), generator=generator).tolist()
    shuffled, cu_shuffled, _ = pack([clips[i] for i in order])
    for place, i in enumerate(order):
        alone = pack([clips[i]])
        rows = features[cu_seqlens[i] : cu_seqlens[i + 1]]
        assert torch.equal(rows, alone.features)
        assert torch.equal(rows, shuffled[cu_shuffled[place] : cu_shuffled[place + 1]])
        assert valid[i] == alone.valid[0]


def test_fbank_of_an_odd_clip_ends_in_a_half_padded_token():
    odd, even = noise(400 + 160 * 4), noise(400 + 160 * 5)
    features, cu_seqlens, valid = pack([odd, even])
    assert cu_seqlens.tolist() == [0, 3, 6] and valid.tolist() == [2, 3]
    assert cu_seqlens.dtype == valid.dtype == torch.int32
    assert features[2, :80].all() and not features[2, 80:].any()
    assert features[[0, 1, 3, 4, 5]].all()


def test_fbank_ignores_samples_after_the_last_full_frame():
    clip = noise(5000)
    assert torch.equal(pack([clip]).features, pack([clip[: 400 + 160 * 28]]).features)


def test_fbank_takes_bounds_as_a_list():
    clip = noise(4000).to(DEVICE)
    assert torch.equal(fbank(clip, [0, 1000, 4000]).features, pack([clip[:1000], clip[1000:]]).features)


def test_fbank_refuses_a_clip_of_less_than_two_frames_by_its_index():
    with pytest.raises(ValueError, match="clip 1 has 559 samples"):
        pack([noise(800), noise(559)])


@pytest.mark.parametrize("bounds", [[0], [0, 900], [100, 1000], []])
def test_fbank_refuses_bounds_that_do_not_cover_the_waveform(bounds):
    with pytest.raises(ValueError, match="from 0 to 1000"):
        fbank(noise(1000).to(DEVICE), bounds)
