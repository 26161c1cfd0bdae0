"""SpeechDetector: equal to the package's own network, and batch-invariant."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

from seamless_engine.errors import UsageError
from seamless_engine.inputs.audio import load_audio
from seamless_engine.segmentation import vad
from seamless_engine.segmentation.vad import FRAME, SpeechDetector
from seamless_kernels import dispatch
from support.audio import clip
from support.snippets import ROOT
from tolerance import PROBABILITY_ATOL

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

CLIPS = [torch.from_numpy(clip(seed, seconds)) for seed, seconds in enumerate((3.1, 0.02, 7.0, 1.0, 0.5, 2.3))]


@pytest.fixture(scope="module")
def detector() -> SpeechDetector:
    return SpeechDetector()


@pytest.fixture
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("SEAMLESS_BACKEND", request.param)
    dispatch.reset()
    yield request.param
    dispatch.reset()


def test_probabilities_are_those_of_the_package(detector: SpeechDetector):
    module = torch.jit.load(str(vad.model_path()))
    recordings = [load_audio(ROOT / "demo" / "audio" / f"{name}.wav") for name in ("human-eng", "8-deu", "11-spa")]
    clips = [*recordings, *CLIPS]
    for samples, found in zip(clips, detector.probabilities(clips), strict=True):
        module.reset_states()
        with torch.inference_mode():
            frames = torch.nn.functional.pad(samples, (0, -len(samples) % FRAME)).split(FRAME)
            expected = torch.cat([module(frame[None], 16_000)[0] for frame in frames])  # the package reads one a call
        assert expected.max() > 0.5 or len(samples) < 32_000
        torch.testing.assert_close(found, expected, rtol=0.0, atol=PROBABILITY_ATOL)


@pytest.mark.parametrize("backend", ["native", "torch"], indirect=True)
def test_probabilities_are_batch_invariant(backend: str):
    detector = SpeechDetector()
    alone = [detector.probabilities([samples])[0] for samples in CLIPS]
    for rows in (7, 64, 100_000):
        for order in (range(len(CLIPS)), range(len(CLIPS) - 1, -1, -1)):
            together = detector.probabilities([CLIPS[index] for index in order], rows)
            assert all(torch.equal(found, alone[index]) for index, found in zip(order, together, strict=True))


def test_probabilities_of_more_clips_than_a_pass_holds(detector: SpeechDetector):
    clips = [CLIPS[2][start : start + 2000 + 37 * start] for start in range(100)]
    for samples, found in zip(clips, detector.probabilities(clips), strict=True):
        assert torch.equal(found, detector.probabilities([samples])[0])


def test_probabilities_have_one_for_each_frame_begun(detector: SpeechDetector):
    lengths = [0, 1, 511, 512, 513, 5 * 512]
    assert detector.probabilities([]) == []
    found = detector.probabilities([CLIPS[0][:length] for length in lengths])
    assert [len(one) for one in found] == [0, 1, 1, 1, 2, 5]


def test_detector_changes_no_setting_of_the_process():
    code = """
import random, sys, warnings, torch
torch.set_num_threads(2)
def settings():
    of_torch = torch.get_num_threads(), torch.get_num_interop_threads(), torch.is_grad_enabled()
    return of_torch, torch.random.get_rng_state().tolist(), random.getstate(), warnings.filters[:]
before = settings()
from seamless_engine.segmentation.vad import SpeechDetector
SpeechDetector().probabilities([torch.zeros(4000)])
assert settings() == before
assert "silero_vad" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_settings_of_the_caller_change_no_probability(detector: SpeechDetector):
    expected = detector.probabilities(CLIPS[:2])
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found = detector.probabilities(CLIPS[:2])
    finally:
        torch.set_default_dtype(dtype)
    assert all(map(torch.equal, found, expected))


def test_memory_does_not_grow_with_the_clip():
    """10 minutes at once would need 300 MB for the spectrum alone."""
    code = """
import re, torch
from seamless_engine.segmentation.vad import SpeechDetector
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
torch.set_num_threads(1)
detector = SpeechDetector()
samples = torch.randn(10 * 60 * 16_000).mul_(0.1)
detector.probabilities([samples[:160_000]])
before = peak()
detector.probabilities([samples])
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(done.stdout) < 30.0


def test_detector_without_the_package_is_a_usage_error(monkeypatch: pytest.MonkeyPatch):
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(UsageError, match=r"seamless-engine\[vad\].*segmenter="):
        SpeechDetector()


def test_detector_of_another_version_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Other(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self._model = torch.nn.Linear(3, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self._model(x)

    path = tmp_path / "other.jit"
    torch.jit.save(torch.jit.trace(Other(), torch.zeros(1, 3)), str(path))
    monkeypatch.setattr(vad, "model_path", lambda: path)
    with pytest.raises(UsageError, match="forward_basis_buffer is missing"):
        SpeechDetector()


def test_detector_finds_the_phrases_of_a_recording(detector: SpeechDetector):
    samples = torch.cat([load_audio(ROOT / "demo" / "audio" / "human-eng.wav"), torch.zeros(16_000)])
    found = detector.probabilities([samples])[0].numpy()
    assert np.mean(found[: len(found) // 2]) > 0.7 and found[-10:].max() < 0.1
