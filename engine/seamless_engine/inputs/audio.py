"""Audio input: every kind of audio that a request takes, as mono float32 at 16 kHz."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from seamless_engine import values
from seamless_engine.errors import AudioError, UsageError
from seamless_engine.inputs.audio_files import Decode, decode_file
from seamless_engine.inputs.audio_samples import Section, as_float, to_mono


def load_audio(
    audio: Any,
    sampling_rate: int | None = None,
    *,
    max_seconds: float = 600.0,
    warn: Callable[[str], object] = warnings.warn,
    channels_first: bool = False,
    decode: Decode = decode_file,
) -> torch.Tensor:
    """Mono float32 [samples] at 16 kHz, a copy.

    audio: a path, the bytes of a file or a binary file object (read from its start), in any format that libsndfile
        reads (wav, flac, ogg, mp3, …) or, with the extra `media`, FFmpeg (m4a, mp4, webm, …); or an array or tensor
        [samples] or [1, samples] with `sampling_rate`; or an entry of an audio column of `datasets`: a mapping with the
        keys "array" and "sampling_rate", or "bytes", or "path" (other keys are ignored), or an object with
        `get_all_samples()`. The channels of a file are averaged. Integer arrays (uint8, int16, int32) are scaled to
        [-1, 1]. A file that was joined from several is read to its end.
    max_seconds: upper limit for the length. Decoding stops there, even if the header of the file has another length.
    warn: is called with a sentence if some of the sound may be missing, or if the channels cancel each other.
    channels_first: an array may also be [channels, samples]; the channels are averaged.
    decode: reads a file, as `decode_file` does.

    Raises AudioError if the clip cannot be read, is truncated, is not finite, or lasts less than 35 ms or more than
    `max_seconds`; UsageError if the argument is none of the above.
    """
    if isinstance(audio, Mapping):
        audio, sampling_rate = _from_mapping(audio, sampling_rate)
    if isinstance(audio, np.ndarray | torch.Tensor):
        section = _of_array(audio, _integer_rate(sampling_rate), channels_first)
        return torch.from_numpy(to_mono([section], max_seconds, "the audio array", warn))
    if sampling_rate is not None:
        raise UsageError("sampling_rate belongs to arrays; an audio file has its own, so leave it out")
    if hasattr(audio, "get_all_samples"):
        label = "the audio decoder"
        return torch.from_numpy(to_mono([_of_decoder(audio, label)], max_seconds, label, warn))
    return torch.from_numpy(decode(audio, max_seconds, warn))


def _from_mapping(audio: Mapping[str, Any], sampling_rate: int | None) -> tuple[Any, int | None]:
    """The clip and the sampling rate of a mapping: its array, else the bytes of its file, else the path."""
    array, rate = audio.get("array"), audio.get("sampling_rate")
    if array is None:
        for name in ("bytes", "path"):
            if audio.get(name) is not None:
                return audio[name], sampling_rate
    if not isinstance(array, np.ndarray | torch.Tensor) or rate is None:
        raise UsageError(
            'an audio mapping needs "array", a NumPy array or torch tensor, and "sampling_rate"; or "bytes", or "path"'
        )
    if sampling_rate is not None and sampling_rate != rate:
        raise UsageError(f"sampling_rate is {sampling_rate} but the audio mapping says {rate}")
    return array, rate


def _integer_rate(sampling_rate: Any) -> int:
    if sampling_rate is None:
        raise UsageError("an audio array needs its sampling_rate, in Hz")
    return values.rate(sampling_rate, low=-values.LARGEST)  # its range is checked later, with that of files


def _of_array(audio: np.ndarray | torch.Tensor, rate: int, channels_first: bool) -> Section:
    """The section of an array [samples], [1, samples], [samples, 1] or, with channels_first, [channels, samples]."""
    if isinstance(audio, torch.Tensor):
        audio = audio.detach().cpu()
        audio = (audio.float() if audio.is_floating_point() else audio).numpy()
    if audio.ndim == 2 and 1 in audio.shape:
        audio = audio.reshape(-1)
    if channels_first and audio.ndim == 2:
        return Section(rate, len(audio), [as_float(audio).T])
    if audio.ndim != 1:
        raise UsageError(
            f"an audio array must have one dimension, not {audio.ndim}: pass one channel, or their average"
        )
    return Section(rate, 1, [as_float(audio)[:, None]])


def _of_decoder(audio: Any, label: str) -> Section:
    """The section of an audio decoder of `datasets`, whose samples are [channels, samples]."""
    try:
        decoded = audio.get_all_samples()
    except Exception as error:  # of the library that decodes
        raise AudioError(f"{label} cannot be decoded: {error}") from error
    samples = np.atleast_2d(torch.as_tensor(decoded.data).detach().cpu().float().numpy())
    return Section(_integer_rate(decoded.sample_rate), len(samples), [samples.T])
