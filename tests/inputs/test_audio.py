"""`load_audio` gives one mono clip at 16 kHz for every kind of input, or an error that says what is wrong."""

from __future__ import annotations

import io
import os
import struct

import numpy as np
import pytest
import torch

from seamless_engine.errors import AudioError, UsageError
from seamless_engine.inputs.audio import load_audio
from support.files import RATE, encoded, tone


def pitch(clip: torch.Tensor) -> float:
    """Strongest frequency in Hz."""
    spectrum = torch.fft.rfft(clip * torch.hann_window(len(clip), periodic=False)).abs()
    return float(spectrum.argmax()) * RATE / len(clip)


class Decoder:
    """The decoder of an audio column of `datasets`. data: float32 [channels, samples]."""

    def __init__(self, data: torch.Tensor) -> None:
        self.data = data
        self.sample_rate = RATE

    def get_all_samples(self) -> Decoder:
        if not self.data.numel():
            raise RuntimeError("no bytes")
        return self


def test_load_audio_gives_the_same_samples_for_every_kind_of_input(tmp_path):
    samples = tone()
    path = tmp_path / "clip.wav"
    path.write_bytes(encoded(samples))
    expected = torch.from_numpy(samples)
    with open(path, "rb") as file:
        file.seek(100)
        inputs = [
            str(path),
            path,
            path.read_bytes(),
            bytearray(path.read_bytes()),
            io.BytesIO(path.read_bytes()),
            file,
            {"array": samples, "sampling_rate": RATE},
            {"array": samples, "sampling_rate": RATE, "path": "elsewhere.wav", "id": 7},
            {"bytes": path.read_bytes(), "path": "elsewhere.wav"},
            {"bytes": None, "path": str(path)},
            Decoder(torch.from_numpy(samples)[None]),
            Decoder(torch.from_numpy(np.stack([0.5 * samples, 1.5 * samples]))),
        ]
        for audio in inputs:
            clip = load_audio(audio)
            assert torch.equal(clip, expected) and clip.is_contiguous()
    arrays = (samples, samples[None], samples[:, None], samples.astype(np.float64), np.repeat(samples, 2)[::2])
    for array in (*arrays, *(torch.from_numpy(samples).reshape(shape) for shape in ((-1,), (1, -1)))):
        assert torch.equal(load_audio(array, RATE), expected)


def test_load_audio_copies_the_array():
    samples = tone()
    clip = load_audio(samples, RATE)
    samples[:] = 0
    assert clip.any()


@pytest.mark.parametrize(
    ("integers", "expected"),
    [
        (np.array([0, 16384, -32768], np.int16), [0, 0.5, -1]),
        (np.array([0, 16384, -32768], ">i2"), [0, 0.5, -1]),
        (np.array([0, 2**30, -(2**31)], np.int32), [0, 0.5, -1]),
        (np.array([128, 192, 0], np.uint8), [0, 0.5, -1]),
    ],
)
def test_load_audio_scales_integer_samples_to_one(integers, expected):
    assert load_audio(np.tile(integers, 200), RATE)[:3].tolist() == expected


@pytest.mark.parametrize("dtype", [torch.int16, torch.float16, torch.bfloat16])
def test_load_audio_accepts_tensors_of_other_dtypes(dtype):
    scale = 32768 if dtype == torch.int16 else 1
    clip = load_audio((torch.from_numpy(tone()) * scale).to(dtype), RATE)
    torch.testing.assert_close(clip, torch.from_numpy(tone()), atol=4e-3, rtol=0)


@pytest.mark.parametrize(
    ("format", "subtype", "tolerance"),
    [
        ("WAV", "PCM_16", 1e-3),
        ("WAV", "PCM_U8", 1e-2),
        ("RF64", "PCM_24", 1e-3),
        ("FLAC", "PCM_16", 1e-3),
        ("OGG", "VORBIS", 0.05),
        ("OGG", "OPUS", 0.05),
        ("MP3", "MPEG_LAYER_III", 0.05),
    ],
)
def test_load_audio_keeps_a_tone_in_every_file_format(format, subtype, tolerance):
    clip = load_audio(encoded(tone(), format=format, subtype=subtype))
    middle = slice(2000, 6000)  # lossy codecs change the ends
    assert abs(len(clip) - 8000) <= 1200
    assert pitch(clip) == pytest.approx(440, abs=5)
    assert float(clip[middle].abs().max()) == pytest.approx(0.5, abs=tolerance)


def test_load_audio_reports_that_a_decoder_failed():
    with pytest.raises(AudioError, match="the audio decoder cannot be decoded: no bytes"):
        load_audio(Decoder(torch.empty(1, 0)))


def test_load_audio_warns_of_channels_that_cancel_each_other():
    left = tone()
    said: list[str] = []
    assert not load_audio(encoded(np.stack([left, -left], axis=1)), warn=said.append).any()
    load_audio(encoded(np.stack([left, -0.95 * left], axis=1), format="FLAC", subtype="PCM_16"), warn=said.append)
    assert len(said) == 2 and all("cancel each other" in one and "pass one of them" in one for one in said)


def test_load_audio_does_not_warn_of_independent_channels_or_silence():
    said: list[str] = []
    alone = np.zeros((8000, 8), np.float32)
    alone[:, 3] = tone()
    for samples in (alone, np.zeros((8000, 2)), np.random.default_rng(0).uniform(-1, 1, (8000, 8))):
        load_audio(encoded(samples), warn=said.append)
    assert not said


def test_load_audio_issues_a_python_warning_by_default():
    with pytest.warns(UserWarning, match="cancel each other"):
        load_audio(encoded(np.stack([tone(), -tone()], axis=1)))


def test_load_audio_averages_channels():
    left, right = tone(), tone(hertz=1000)
    mixed = load_audio(encoded(np.stack([left, right], axis=1)))
    torch.testing.assert_close(mixed, torch.from_numpy((left + right) / 2))
    eight = load_audio(encoded(np.repeat(left[:, None], 8, axis=1)))
    torch.testing.assert_close(eight, torch.from_numpy(left))


def test_load_audio_refuses_more_than_eight_channels():
    with pytest.raises(AudioError, match="9 channels"):
        load_audio(encoded(np.zeros((1000, 9), np.float32)))


@pytest.mark.parametrize("rate", [4000, 8000, 11025, 22050, 44100, 48000, 384000])
def test_load_audio_keeps_pitch_and_duration_when_it_resamples(rate):
    samples = tone(rate)
    clip = load_audio(samples, rate)
    assert abs(len(clip) - 8000) <= 1
    assert pitch(clip) == pytest.approx(440, abs=2)
    assert torch.equal(clip, load_audio(encoded(samples, rate)))


def test_load_audio_resamples_blocks_of_a_long_file_without_seams():
    samples = np.random.default_rng(0).uniform(-1, 1, 200_000).astype(np.float32)  # several blocks
    assert torch.equal(load_audio(encoded(samples, 44100)), load_audio(samples, 44100))


def test_load_audio_resamples_without_aliasing():
    assert float(load_audio(tone(48000, hertz=11000), 48000)[1000:-1000].abs().max()) < 1e-3


@pytest.mark.parametrize("rate", [1000, 3999, 384001, -16000, 0])
def test_load_audio_refuses_sampling_rates_out_of_range(rate):
    with pytest.raises(AudioError, match=f"rate of {rate} Hz"):
        load_audio(tone(), rate)


def test_load_audio_refuses_a_clip_longer_than_max_seconds():
    assert len(load_audio(tone(seconds=1.0), RATE, max_seconds=1.0)) == RATE
    for audio, rate in ((tone(seconds=1.001), RATE), (encoded(tone(8000, 1.001), 8000), None)):
        with pytest.raises(AudioError, match="longer than 1 s"):
            load_audio(audio, rate, max_seconds=1.0)


def test_load_audio_refuses_a_short_clip_with_its_length():
    assert len(load_audio(tone()[:560], RATE)) == 560
    with pytest.raises(AudioError, match=r"lasts 0\.0349 s; at least 0\.035 s"):
        load_audio(tone()[:559], RATE)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_load_audio_refuses_samples_that_are_not_finite_or_far_out_of_range(bad, tmp_path):
    samples = tone()
    samples[-1] = bad
    path = tmp_path / "bad.wav"
    path.write_bytes(encoded(samples, subtype="FLOAT"))
    for audio, rate in ((samples, RATE), (samples, 44100), (path, None)):
        with pytest.raises(AudioError, match="NaN, infinite"):
            load_audio(audio, rate)


@pytest.mark.parametrize("rate", [1, 400_000, 2**31 - 1])
def test_load_audio_refuses_a_forged_sampling_rate(rate):
    forged = bytearray(encoded(tone(), subtype="PCM_16"))
    forged[24:28] = struct.pack("<I", rate)
    with pytest.raises(AudioError, match="sampling rate"):
        load_audio(bytes(forged))


def test_load_audio_names_a_path_without_audio(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.wav").write_text("hello " * 100)
    (tmp_path / "empty.wav").touch()
    (tmp_path / "headerless.raw").write_bytes(bytes(1000))
    (tmp_path / "silent.wav").write_bytes(encoded(np.zeros(0, np.float32)))
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "pipe.wav")
    reasons = {
        "text.wav": "cannot be decoded as audio: it is text and begins with 'hello hello",
        "empty.wav": "is empty",
        "headerless.raw": "cannot be decoded as audio",
        "silent.wav": "has no samples",
        "folder.wav": "is not a regular file",
        "pipe.wav": "is not a regular file",
        "./missing.wav": "cannot be read: No such file",
        "nul\0.wav": "cannot be read",
    }
    for name, reason in reasons.items():
        with pytest.raises(AudioError) as caught:
            load_audio(name)
        assert str(caught.value).startswith(f"{name} {reason}")


def test_load_audio_refuses_empty_input():
    for audio, rate in ((b"", None), (io.BytesIO(), None), (np.zeros(0, np.float32), RATE)):
        with pytest.raises(AudioError, match="is empty|has no samples"):
            load_audio(audio, rate)


def test_load_audio_refuses_a_file_object_that_cannot_seek():
    reader, writer = os.pipe()
    os.close(writer)
    with open(reader, "rb") as pipe, pytest.raises(AudioError, match="cannot seek"):
        load_audio(pipe)


@pytest.mark.parametrize(
    ("audio", "rate", "message"),
    [
        (tone(), None, "needs its sampling_rate"),
        (tone(), 16000.5, "must be an integer"),
        (np.stack([tone(), tone()]), RATE, "one channel, or their average"),
        (tone()[None, None], RATE, "one channel, or their average"),
        (tone().astype(np.complex64), RATE, "floats, int16, int32 or uint8"),
        (torch.ones(1000, dtype=torch.bool), RATE, "floats, int16, int32 or uint8"),
        (b"RIFF", RATE, "leave it out"),
        ({"array": tone()}, None, '"sampling_rate"'),
        ({"array": [0.0], "sampling_rate": RATE}, None, '"array"'),
        ({"bytes": None, "path": None}, None, '"bytes", or "path"'),
        ({"array": tone(), "sampling_rate": RATE}, 8000, "the audio mapping says 16000"),
        (io.StringIO("text"), None, "binary mode"),
        (3, None, "not int"),
    ],
)
def test_load_audio_refuses_wrong_arguments_with_advice(audio, rate, message):
    with pytest.raises(UsageError, match=message):
        load_audio(audio, rate)
