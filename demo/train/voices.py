"""espeak-ng by its C interface: one sentence in, samples at 16 kHz and the times of its phonemes out.

No process per clip, and no system package: the library and its voices come with the wheel `espeakng-loader`.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import espeakng_loader
import numpy as np
import soxr

RATE = 16000
ACCENTS = {
    "eng": ("en-us", "gmw/en", "en-gb-scotland"),
    "fra": ("fr", "fr-ch"),
    "deu": ("de",),
    "spa": ("es", "es-419"),
}
VARIANTS = ("", "+m1", "+m3", "+m7", "+f1", "+f2", "+f3", "+f4")
SPEAKERS = ("", "+f3")  # the two voices of the vocoder, on the first accent of each language

_SYNCHRONOUS, _PHONEME_EVENTS, _UTF8 = 2, 1, 1
_SPEED, _PITCH, _PITCH_RANGE = 1, 3, 4
_EVENT_END, _EVENT_PHONEME = 0, 7


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),
    ]


class Spoken(NamedTuple):
    """samples float32 [n] at 16 kHz; phonemes: (name, start in seconds), ending with ("", end)."""

    samples: np.ndarray
    phonemes: list[tuple[str, float]]


class Espeak:
    """One per process: the library has one state."""

    def __init__(self) -> None:
        self._library: Any = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        self._rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data, _PHONEME_EVENTS)
        if self._rate <= 0:
            raise RuntimeError("espeak-ng does not start: install espeakng-loader again")
        self._pieces: list[np.ndarray] = []
        self._phonemes: list[tuple[str, float]] = []
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
        self._callback = kind(self._receive)  # kept: the library holds only a pointer
        self._library.espeak_SetSynthCallback(self._callback)

    def say(self, text: str, voice: str, words_per_minute: int, pitch: int = 50, pitch_range: int = 50) -> Spoken:
        """pitch and pitch_range: 0 to 100. Raises ValueError for a voice that espeak-ng does not have."""
        self._pieces, self._phonemes = [], []
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        for parameter, value in ((_SPEED, words_per_minute), (_PITCH, pitch), (_PITCH_RANGE, pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._library.espeak_ng_SetRandSeed(0)  # of the breath in some voices, which else comes from the clock
        raw = text.encode() + b"\0"
        self._library.espeak_Synth(raw, len(raw), 0, 1, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        samples = np.concatenate(self._pieces).astype(np.float32) / 32768
        phonemes = [*self._phonemes, ("", len(samples) / self._rate)]
        return Spoken(soxr.resample(samples, self._rate, RATE, "HQ"), phonemes)

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while (event := events[index]).type != _EVENT_END:
            if event.type == _EVENT_PHONEME:
                self._phonemes.append((event.name.decode("utf8", "replace"), event.sample / self._rate))
            index += 1
        return 0
