"""`load_audio` on containers that libsndfile does not read: by PyAV if it is installed, else an error with advice."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from seamless_engine.errors import AudioError
from seamless_engine.inputs.audio import load_audio
from support.files import RATE, encoded, encoded_media, tone

MEDIA = {  # container, codec and sampling rate
    "m4a": ("ipod", "aac", 16_000),
    "mp4": ("mp4", "aac", 44_100),
    "3gp": ("3gp", "aac", 16_000),
    "webm": ("webm", "libopus", 48_000),
    "mka": ("matroska", "flac", 16_000),
    "aac": ("adts", "aac", 16_000),
    "wma": ("asf", "wmav2", 44_100),
    "wv": ("wv", "wavpack", 16_000),
    "tta": ("tta", "tta", 16_000),
    "ac3": ("ac3", "ac3", 48_000),
}
LOSSLESS = ("mka", "wv", "tta")
KNOWN_LENGTH = ("m4a", "mp4", "3gp", "webm", "mka", "wma", "tta")


def media(name: str, seconds: float = 1.0, streams: int = 1, pictures: bool = False) -> bytes:
    container, codec, rate = MEDIA[name]
    return encoded_media(tone(rate, seconds), container, codec, rate, streams=streams, pictures=pictures)


def read(content: bytes) -> tuple[torch.Tensor, list[str]]:
    said: list[str] = []
    return load_audio(content, warn=said.append), said


@pytest.fixture
def without_pyav(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.delitem(sys.modules, "seamless_engine.inputs.audio_media", raising=False)


@pytest.mark.parametrize("name", MEDIA)
def test_load_audio_reads_media_with_pyav(name):
    clip, said = read(media(name))
    assert abs(len(clip) - RATE) < 2_000  # encoders pad
    spectrum = torch.fft.rfft(clip[2_000:14_000] * torch.hann_window(12_000)).abs()
    assert float(spectrum.argmax()) * RATE / 12_000 == pytest.approx(440, abs=5)
    assert float(clip[2_000:14_000].abs().max()) == pytest.approx(0.5, abs=0.05)
    assert said == (
        ["the audio bytes is in the format ac3: whether it was truncated cannot be known"] * (name == "ac3")
    )


@pytest.mark.parametrize("name", LOSSLESS)
def test_load_audio_reads_lossless_media_as_it_reads_flac(name):
    expected = load_audio(encoded(tone(seconds=1.0), format="FLAC", subtype="PCM_16"))
    torch.testing.assert_close(load_audio(media(name)), expected, atol=2 / 32768, rtol=0)


@pytest.mark.parametrize("name", KNOWN_LENGTH)
def test_load_audio_never_shortens_truncated_media_without_a_warning(name):
    content = media(name, seconds=2.0)
    for share in (0.3, 0.6, 0.8):
        try:
            _, said = read(content[: int(share * len(content))])
            assert "truncated" in said[0]
        except AudioError as error:
            assert "truncated" in str(error)


@pytest.mark.parametrize("name", ["m4a", "webm", "wma", "aac"])
def test_load_audio_reads_all_of_joined_media(name):
    once = len(load_audio(media(name)))
    clip, said = read(media(name) * 2)
    assert not said and len(clip) == pytest.approx(2 * once, abs=2)


@pytest.mark.parametrize("name", ["m4a", "webm", "tta"])
def test_load_audio_reports_unknown_bytes_after_media(name):
    _, said = read(media(name) + b"\x01\xf0\x02" * 2000)
    assert "not understood: sound may be missing" in said[0]


def test_load_audio_stops_decoding_media_at_the_limit(monkeypatch):
    from seamless_engine.inputs import audio_media

    content = encoded_media(np.zeros(60 * RATE, np.float32), "mp4", "aac")
    seconds: list[float] = []
    samples = audio_media.samples_of
    monkeypatch.setattr(
        audio_media, "samples_of", lambda frame: seconds.append(frame.samples / frame.sample_rate) or samples(frame)
    )
    with pytest.raises(AudioError, match="longer than 2 s: split it"):
        load_audio(content, max_seconds=2.0)
    assert 2.0 <= sum(seconds) < 2.1


def test_load_audio_reads_the_first_of_several_streams_and_warns():
    clip, said = read(media("mp4", streams=2, pictures=True))
    assert torch.equal(clip, load_audio(media("mp4")))
    assert said == ["the audio bytes has 2 audio streams: only the first one was read"]


def test_load_audio_reads_the_sound_of_a_video():
    clip, said = read(media("mp4", pictures=True))
    assert torch.equal(clip, load_audio(media("mp4"))) and not said


def test_load_audio_refuses_a_video_without_sound():
    with pytest.raises(AudioError, match="has no audio stream"):
        load_audio(media("mp4", streams=0, pictures=True))


def test_load_audio_opens_no_other_file_for_a_playlist(tmp_path):
    (tmp_path / "clip.ts").write_bytes(encoded_media(tone(), "mpegts", "aac"))
    for name, text in {
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{tmp_path}/clip.ts\n#EXT-X-ENDLIST\n",
        "list.txt": f"ffconcat version 1.0\nfile {tmp_path}/clip.ts\n",
    }.items():
        for extra in ("", "# é\n" * 20):
            (tmp_path / name).write_text(text + extra)
            with pytest.raises(AudioError, match="cannot be decoded"):
                load_audio(tmp_path / name)


def test_load_audio_gives_the_reasons_of_both_libraries():
    with pytest.raises(
        AudioError, match="cannot be decoded as audio: Format not recognised; FFmpeg says: Invalid data"
    ):
        load_audio(b"\x81\xd3\x07" * 500)


@pytest.mark.usefixtures("without_pyav")
@pytest.mark.parametrize(
    ("name", "title"), [("m4a", "MPEG-4"), ("webm", "Matroska"), ("wma", "ASF"), ("aac", "AAC"), ("wv", "WavPack")]
)
def test_load_audio_names_the_extra_and_the_command_without_pyav(name, title, tmp_path):
    path = tmp_path / f"my voice.{name}"
    path.write_bytes(media(name))
    with pytest.raises(AudioError) as caught:
        load_audio(path)
    message = str(caught.value)
    assert f"libsndfile does not read {title}" in message and "pip install 'seamless-engine[media]'" in message
    assert f"ffmpeg -i '{path}' -ar 16000 -ac 1 '{path.with_suffix('.wav')}'" in message
    with pytest.raises(AudioError, match="ffmpeg -i FILE -ar 16000 -ac 1 FILE.wav"):
        load_audio(path.read_bytes())


@pytest.mark.usefixtures("without_pyav")
def test_load_audio_proposes_no_conversion_of_a_file_to_itself(tmp_path):
    path = tmp_path / "voice.wav"
    path.write_bytes(media("m4a"))
    with pytest.raises(AudioError, match=rf"ffmpeg -i {path} -ar 16000 -ac 1 {tmp_path}/voice-converted.wav"):
        load_audio(path)


@pytest.mark.usefixtures("without_pyav")
def test_load_audio_needs_no_pyav_for_the_formats_of_libsndfile():
    for format in ("WAV", "FLAC", "OGG", "MP3"):
        assert len(load_audio(encoded(tone(), format=format, subtype=None))) > 0
