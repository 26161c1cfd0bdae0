"""Audio files in memory, by libsndfile and by FFmpeg's encoders."""

from __future__ import annotations

import io

import av
import numpy as np
import soundfile

RATE = 16_000


def tone(rate: int = RATE, seconds: float = 0.5, hertz: float = 440.0) -> np.ndarray:
    """float32 [samples], at half of full scale."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def encoded(samples: np.ndarray, rate: int = RATE, format: str = "WAV", subtype: str | None = "FLOAT") -> bytes:
    """samples: [frames] or [frames, channels]."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=format, subtype=subtype)
    return buffer.getvalue()


def encoded_media(
    samples: np.ndarray, container: str, codec: str, rate: int = RATE, *, streams: int = 1, pictures: bool = False
) -> bytes:
    """A file of the mono samples [frames] in `streams` audio streams, with three video frames if asked for."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        tracks = [output.add_stream(codec, rate=rate, layout="mono", bit_rate=64_000) for _ in range(streams)]
        if pictures:
            video = output.add_stream("mpeg4", rate=5, width=32, height=32, pix_fmt="yuv420p")
            assert isinstance(video, av.VideoStream)
            for picture in (*(av.VideoFrame(32, 32, "yuv420p") for _ in range(3)), None):
                output.mux(video.encode(picture))
        for track in tracks:
            assert isinstance(track, av.AudioStream)
            context = track.codec_context
            if {"s16", "s16p"} & (names := {format.name for format in context.codec.audio_formats or ()}):
                context.format = "s16" if "s16" in names else "s16p"
            fitting = av.AudioResampler(context.format.name, "mono", rate, context.frame_size or 1024)
            clip = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            clip.sample_rate, clip.pts = rate, 0
            for frame in (*fitting.resample(clip), *fitting.resample(None), None):
                output.mux(track.encode(frame))
    return file.getvalue()
