"""Long files with known text and times: held-out sentences of the demo, spoken by espeak-ng, and pauses."""

from __future__ import annotations

import json
import multiprocessing
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np

import support.repository  # noqa: F401
from demo.train.voices import ACCENTS, RATE, VARIANTS, Espeak
from seamless_engine.segmentation.options import Segmentation
from support.snippets import ROOT

# For the demo's checkpoint, which has heard clips of one sentence only: of two in a segment it writes one. In noise the
# probabilities fall slowly after the end of speech, so that a high threshold keeps pauses of 0.35 s.
DEMO = Segmentation(threshold=0.7, negative_threshold=0.7, min_silence=0.34)
PAUSES = (0.35, 1.5)  # seconds between two phrases
_AUDIBLE = 0.01  # of a phrase's largest sample: speech lasts from the first such sample to the last


class Phrase(NamedTuple):
    """A sentence of a file. start, end: seconds."""

    text: str
    start: float
    end: float


class LongFile(NamedTuple):
    """samples float32 [n] at 16 kHz, and what is said in them."""

    samples: np.ndarray
    phrases: list[Phrase]

    def with_noise(self, snr: float, seed: int = 0) -> LongFile:
        """White noise, so many dB below the mean power of the speech; the same seed gives the same noise."""
        spoken = np.concatenate([self.samples[round(one.start * RATE) : round(one.end * RATE)] for one in self.phrases])
        level = np.sqrt(np.mean(np.square(spoken))) * 10 ** (-snr / 20)
        noise = np.random.default_rng(seed).standard_normal(len(self.samples), dtype=np.float32)
        return LongFile((self.samples + level * noise).clip(-1, 1), self.phrases)


def long_file(seconds: float, lang: str = "eng", seed: int = 0) -> LongFile:
    """At least so many seconds of one language, each phrase in a random voice. The same arguments give the same file:
    espeak-ng carries its state from one sentence to the next, so that a process of its own reads it.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_read_aloud, seconds, lang, seed).result()


def _read_aloud(seconds: float, lang: str, seed: int) -> LongFile:
    rng = random.Random(seed)
    espeak = Espeak()
    parts, phrases = [_pause(rng)], []
    start = len(parts[0])
    for text in _sentences(lang, rng):
        voice = rng.choice(ACCENTS[lang]) + rng.choice(VARIANTS)
        spoken = espeak.say(text, voice, rng.randint(110, 165), rng.randint(30, 75)).samples
        audible = np.flatnonzero(np.abs(spoken) > _AUDIBLE * np.abs(spoken).max())
        parts += [spoken[audible[0] : audible[-1] + 1], _pause(rng)]
        end = start + len(parts[-2])
        phrases.append(Phrase(text, start / RATE, end / RATE))
        start = end + len(parts[-1])
        if start >= seconds * RATE:
            break
    return LongFile(np.concatenate(parts), phrases)


def _pause(rng: random.Random) -> np.ndarray:
    return np.zeros(round(rng.uniform(*PAUSES) * RATE), np.float32)


def _sentences(lang: str, rng: random.Random) -> Iterator[str]:
    """The held-out sentences of a language in random order, and then again."""
    lines = (ROOT / "demo" / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [item["text"] for item in map(json.loads, lines) if item["src_lang"] == lang]
    while True:
        yield from rng.sample(texts, len(texts))
