"""`load_audio` reads joined files and files of unknown length to their end, and reports truncated files."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile
import torch

from seamless_engine import Engine, Request
from seamless_engine.errors import AudioError
from seamless_engine.inputs.audio import load_audio
from seamless_engine.inputs.containers import streams
from seamless_engine.inputs.containers.find import find_parts
from seamless_engine.inputs.containers.mpeg import parse_frame
from support.files import RATE, encoded, tone

FIRST, SECOND = tone(seconds=0.5), tone(seconds=0.75, hertz=700.0)
CHECKED = {  # containers whose structure is checked
    "wav": ("WAV", "PCM_16"),
    "wav, extensible": ("WAVEX", "PCM_16"),
    "wav, 8 bits": ("WAV", "PCM_U8"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "svx": ("SVX", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "nist": ("NIST", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


def read(content: bytes) -> tuple[torch.Tensor, list[str]]:
    said: list[str] = []
    return load_audio(content, warn=said.append), said


def outcome(content: bytes) -> str:
    """The error or the warnings for a file; empty if there are none."""
    try:
        return "; ".join(read(content)[1])
    except AudioError as error:
        return str(error)


def complete(name: str, samples: np.ndarray = FIRST, rate: int = RATE) -> bytes:
    format, subtype = CHECKED[name]
    return encoded(samples, rate, format, subtype)


def patched(content: bytes, at: int, value: bytes) -> bytes:
    return content[:at] + value + content[at + len(value) :]


def with_total(flac: bytes, total: int) -> bytes:
    """The file with `total` as the number of samples in STREAMINFO."""
    return patched(flac, 21, bytes([flac[21] & 0xF0 | total >> 32]) + struct.pack(">I", total & 0xFFFFFFFF))


def frames_of(mp3: bytes) -> list[bytes]:
    """The frames of an mp3 file. The first one has the number of the others."""
    frames: list[bytes] = []
    while (frame := parse_frame(mp3[sum(map(len, frames)) :])) is not None:
        at = sum(map(len, frames))
        frames.append(mp3[at : at + frame.length])
    assert b"Info" in frames[0] or b"Xing" in frames[0]
    return frames


def without_header_frame(mp3: bytes) -> bytes:
    return b"".join(frames_of(mp3)[1:])


@pytest.mark.parametrize("name", CHECKED)
def test_load_audio_reads_complete_files_as_libsndfile_does(name):
    expected, _ = soundfile.read(io.BytesIO(complete(name)), dtype="float32")
    clip, said = read(complete(name))
    assert not said and len(clip) == len(expected)
    np.testing.assert_allclose(clip.numpy(), expected, atol=1e-6)  # libmpg123 rounds by call size


@pytest.mark.parametrize("name", CHECKED)
def test_load_audio_reads_all_of_joined_files(name):
    parts = [complete(name), complete(name, SECOND), complete(name)]
    clip, said = read(b"".join(parts))
    assert not said and torch.equal(clip, torch.cat([read(part)[0] for part in parts]))


def test_load_audio_reads_joined_files_of_different_kinds():
    parts = [
        complete("wav"),
        complete("mp3"),
        complete("vorbis", SECOND, 8_000),
        complete("aiff"),
        encoded(np.stack([FIRST] * 2, 1)),
    ]
    clip, said = read(b"".join(parts))
    assert not said and torch.equal(clip, torch.cat([read(part)[0] for part in parts]))


def test_load_audio_counts_joined_files_together_against_the_limit():
    joined = complete("flac") * 3
    assert len(load_audio(joined, max_seconds=1.5)) == 3 * len(FIRST)
    with pytest.raises(AudioError, match="longer than 1.4 s"):
        load_audio(joined, max_seconds=1.4)


def test_load_audio_reads_an_mp3_without_a_header_to_its_end():
    bare = without_header_frame(complete("mp3", tone(seconds=4.0)))
    assert len(soundfile.read(io.BytesIO(bare))[0]) < RATE  # the estimate of libsndfile from the first frame
    clip, said = read(bare)
    assert len(clip) >= 4 * RATE and not said


def test_load_audio_reads_joined_mp3_files_without_headers():
    joined = without_header_frame(complete("mp3")) + complete("mp3", SECOND)
    assert len(read(joined)[0]) >= len(FIRST) + len(SECOND)
    # libsndfile itself stops at the end of the first file
    joined = complete("mp3") + without_header_frame(complete("mp3", SECOND))
    assert len(read(joined)[0]) >= len(FIRST) + len(SECOND) > len(soundfile.read(io.BytesIO(joined))[0])


@pytest.mark.parametrize("name", CHECKED)
def test_load_audio_never_shortens_a_truncated_file_without_an_error(name):
    content = complete(name)
    for length in (len(content) - 1, *np.linspace(100, len(content) - 2, 23, dtype=int)):
        assert outcome(content[:length]), length


@pytest.mark.parametrize("name", ["wav", "aiff", "w64", "au", "caf", "nist", "flac", "opus"])
def test_load_audio_reports_that_a_file_is_truncated(name):
    content = complete(name)
    with pytest.raises(AudioError, match="truncated"):
        load_audio(content[: len(content) * 2 // 3])


def test_load_audio_reports_that_an_ogg_stream_has_no_end():
    content = complete("vorbis", tone(seconds=8.0))
    cut = content.rindex(b"OggS")
    clip, said = read(content[:cut])
    assert len(clip) < 8 * RATE and "no last page" in said[0]


def test_load_audio_warns_if_truncation_cannot_be_detected():
    clip, said = read(encoded(FIRST, format="VOC", subtype="PCM_16"))
    assert len(clip) > 0 and said == ["the audio bytes is in the format VOC: whether it was truncated cannot be known"]


@pytest.mark.parametrize("name", ["wav", "aiff", "caf", "vorbis", "flac", "mp3", "nist"])
def test_load_audio_reports_unknown_bytes_after_the_sound(name):
    content = complete(name)
    clip, said = read(content + b"\x01\xff\x02" * 1000)
    assert torch.equal(clip, read(content)[0])
    assert len(said) == 1 and "bytes" in said[0] and "sound may be missing" in said[0]


@pytest.mark.parametrize("name", ["wav", "flac", "mp3"])
def test_load_audio_ignores_tags_and_padding_around_the_sound(name):
    tag = b"TAG" + bytes(125)
    id3 = b"ID3\x04\0\0\0\0\x02\0" + bytes(256)
    footed = b"ID3\x04\0\x10\0\0\0\x0a" + bytes(10) + b"3DI\x04\0\x10\0\0\0\x0a"
    large = b"ID3\x03\0\0\x04\x4a\x64\0" + bytes((4 << 21) + (74 << 14) + (100 << 7))
    ape = b"APETAGEX" + struct.pack("<III", 2000, 32, 0) + bytes(12)
    content = complete(name)
    expected, _ = read(content)
    for before, after in ((id3, tag), (footed, b""), (large, b""), (bytes(4096), b""), (b"\n", ape), (b"", bytes(100))):
        if name == "flac" and after not in (b"", tag):
            continue  # libFLAC reads them as frames
        clip, said = read(before + content + after)
        assert torch.equal(clip, expected) and not said


class Counted(io.BytesIO):
    """Counts the bytes that are read."""

    count = 0

    def read(self, size=-1):
        content = super().read(size)
        self.count += len(content)
        return content


@pytest.mark.parametrize(
    "piece",
    [b"\0TAG" + bytes(125), b"\0ID3\x04\0\0\0\0\0\0", b"\0\0\0", b"\nAPETAGEX" + bytes(24)],
    ids=["id3v1", "id3v2", "padding", "ape"],
)
def test_find_parts_reads_little_more_than_the_tags(piece):
    content = piece * (300_000 // len(piece))
    file = Counted(content)
    parts, _ = find_parts(file, len(content))
    assert not parts and file.count < 3 * len(content)


@pytest.mark.parametrize("junk", [b"\xff", b"\xff\xfb\x90\0"], ids=["no frame", "frames that none follows"])
def test_find_parts_searches_few_positions_for_the_next_frame(monkeypatch, junk):
    frames = frames_of(complete("mp3"))[1:3]
    content = b"".join([*frames, b"\x01", junk * (200_000 // len(junk)), *frames])
    calls = []
    monkeypatch.setattr(streams, "parse_frame", lambda head: calls.append(head) or parse_frame(head))
    find_parts(io.BytesIO(content), len(content))
    assert len(calls) < 5000


def test_load_audio_reads_an_mp3_that_is_damaged_in_the_middle():
    content = complete("mp3", tone(seconds=4.0))
    frames = frames_of(content)
    clip, said = read(b"".join([*frames[:50], b"\x01" * 333, *frames[50:]]))
    assert len(clip) >= 4 * RATE and "333 bytes that are not understood" in said[-1]


@pytest.mark.parametrize(
    ("rate", "channels", "bits"), [(16_000, 1, 16), (44_100, 2, 16), (48_000, 1, 24), (8_000, 1, 16)]
)
@pytest.mark.parametrize("tag", [b"", b"TAG" + bytes(125)])
def test_load_audio_reads_a_flac_of_unknown_length(rate, channels, bits, tag):
    samples = np.stack([tone(rate), tone(rate, hertz=700.0)], axis=1)[:, :channels]
    content = encoded(samples, rate, "FLAC", f"PCM_{bits}")
    clip, said = read(with_total(content, 0) + tag)
    assert torch.equal(clip, read(content)[0]) and not said


def test_load_audio_reads_a_flac_beyond_the_length_in_its_header():
    content = complete("flac", SECOND)
    for total in (1, len(SECOND) // 2, len(SECOND) - 1):
        clip, _ = read(with_total(content, total))
        assert torch.equal(clip, read(content)[0])


@pytest.mark.parametrize("total", [len(FIRST) + 1, 2**36 - 1])
def test_load_audio_refuses_a_flac_shorter_than_its_header_says(total):
    with pytest.raises(AudioError, match="truncated"):
        load_audio(with_total(complete("flac"), total))


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0xFFFFFFDB, 0x80000000, 0x7FFFFFFF, 0x7FFFF000, 0x7FFF0000, 0])
def test_load_audio_reads_a_wav_that_was_written_to_a_pipe(size):
    content = complete("wav")
    at = content.index(b"data") + 4
    streamed = patched(content, at, struct.pack("<I", size))
    clip, said = read(streamed)
    assert torch.equal(clip, read(content)[0]) and not said
    assert len(read(streamed * 2)[0]) == 2 * len(clip)


@pytest.mark.parametrize(
    ("name", "field", "size"),
    [
        ("aiff", b"SSND", bytes(4)),
        ("aiff", b"SSND", b"\x7f\0\0\x08"),
        ("au", b".snd\0\0\0\x18", b"\xff" * 4),
        ("au", b".snd\0\0\0\x18", bytes(4)),
        ("caf", b"data", b"\xff" * 8),
        ("w64", b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a", b"\xff" * 7 + b"\x7f"),
    ],
)
def test_load_audio_reads_other_files_that_were_written_to_a_pipe(name, field, size):
    content = complete(name)
    clip, said = read(patched(content, content.index(field) + len(field), size))
    assert torch.equal(clip, read(content)[0]) and not said


def test_load_audio_reads_an_rf64_file_of_unknown_length():
    content = complete("rf64")
    clip, said = read(patched(content, content.index(b"ds64") + 8, bytes(24)))
    assert torch.equal(clip, read(content)[0]) and not said


def test_load_audio_refuses_a_header_without_samples():
    for name in ("wav", "aiff", "au"):
        with pytest.raises(AudioError, match="has no samples"):
            load_audio(complete(name, np.zeros(0, np.float32)))


def test_load_audio_skips_chunks_before_and_after_the_samples():
    content = complete("wav")
    at = content.index(b"data")
    chunk = b"note" + struct.pack("<I", 3) + b"abc\0"
    for wav in (content[:at] + chunk + content[at:], content + chunk, content + chunk * 2):
        clip, said = read(wav)
        assert torch.equal(clip, read(content)[0]) and not said
    with pytest.raises(AudioError, match="truncated"):
        load_audio((content[:at] + chunk + content[at:])[:-2])


def test_load_audio_refuses_forged_lengths_without_other_errors():
    rng = np.random.default_rng(0)
    fields = [b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 7, b"\xff" * 7 + b"\x7f", b"\xff" * 4, bytes(4), b"\0\0\0\1"]
    for name in CHECKED:
        content = complete(name, FIRST[:2000])
        for at in rng.integers(4, min(len(content), 120), 12):
            outcome(patched(content, int(at), fields[rng.integers(len(fields))]))


def test_generate_puts_warnings_of_reading_into_the_result(checkpoint):
    engine = Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["asr"])
    files = [
        complete("wav"),
        complete("wav") + b"\x01" * 2000,
        encoded(np.stack([FIRST, -FIRST], axis=1)),
        complete("wav")[:-9],
    ]
    results = engine.generate([Request("asr", "eng", audio=content) for content in files])
    assert [len(result.warnings) for result in results] == [0, 1, 1, 0]
    assert "2000 bytes" in results[1].warnings[0] and "cancel each other" in results[2].warnings[0]
    assert [result.error is None for result in results] == [True, True, True, False]
