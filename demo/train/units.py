"""Speech units: k-means on log-mel frames of one voice per language, 50 a second, shared by all speakers.

    python -m demo.train.units --work DIR

Clusters of frames of several voices say who speaks. So the units are those of the first speaker; the second speaker
says the same sentence, has the same phonemes, and its frame takes the unit at the same place inside the same phoneme.

DIR/units.npz, packed over the sentences of a split: samples int16 [n · 320] of both speakers, units int16 [n] of both,
bounds int64 of sentences in units, and the k-means centres. Only the first PAIRS sentences have a second speaker.
"""

from __future__ import annotations

import argparse
import itertools
import random
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans

from demo.train.domain import Concept, sample_concept, text
from demo.train.network import UNITS
from demo.train.voices import ACCENTS, RATE, SPEAKERS, Espeak, Spoken
from demo.train.words import LANGUAGES
from seamless_kernels.fbank import mel_filters

FRAME = 320
WORDS_PER_MINUTE = 130
SENTENCES, PAIRS, HELD_OUT = 4000, 1200, 200


class Sentence(NamedTuple):
    """units int64 [n]; samples float32 [n · 320]."""

    concept: Concept
    lang: str
    speaker: int
    units: np.ndarray
    samples: np.ndarray

    @property
    def text(self) -> str:
        return text(self.concept, self.lang)


def planned(index: int, seed: int) -> tuple[Concept, str]:
    """Sentence `index`; the last HELD_OUT ones are of held-out concepts."""
    rng = random.Random(zlib.crc32(f"{seed}/units/{index}".encode()))
    return sample_concept(rng, index >= SENTENCES), rng.choice(LANGUAGES)


def synthesize(espeak: Espeak, words: str, lang: str, speaker: int) -> Spoken:
    """Speech of a sentence, cut to full frames of 320 samples."""
    spoken = espeak.say(words, ACCENTS[lang][0] + SPEAKERS[speaker], WORDS_PER_MINUTE)
    return Spoken(spoken.samples[: len(spoken.samples) // FRAME * FRAME], spoken.phonemes)


def log_mel(samples: np.ndarray) -> np.ndarray:
    """float32 [n, 80]: entry n is centred in frame n of 320 samples."""
    side = (512 - FRAME) // 2
    padded = torch.nn.functional.pad(torch.from_numpy(samples), (side, side))
    power = torch.stft(padded, 512, FRAME, window=torch.hann_window(512), center=False, return_complex=True).abs() ** 2
    filters = torch.from_numpy(mel_filters()).float()
    return (power.T @ filters).clamp(min=1e-4).log().numpy()


def carried(first: Spoken, second: Spoken) -> np.ndarray | None:
    """For each frame of `second` the frame of `first` at the same place in the same phoneme; None if these differ."""
    if [name for name, _ in first.phonemes] != [name for name, _ in second.phonemes]:
        return None
    times = [[start for _, start in spoken.phonemes] for spoken in (first, second)]
    centres = (np.arange(len(second.samples) // FRAME) + 0.5) * FRAME / RATE
    place = np.interp(centres, times[1], times[0]) * RATE / FRAME
    return place.astype(int).clip(0, len(first.samples) // FRAME - 1)


def load(work: Path, seed: int = 0) -> tuple[list[Sentence], list[Sentence]]:
    """Sentences to train on and held-out ones."""
    path = work / "units.npz"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: run python -m demo.train.units --work {work} first")
    split: tuple[list[Sentence], list[Sentence]] = ([], [])
    with np.load(path) as stored:
        samples, units, rows = stored["samples"], stored["units"], stored["rows"]
    for (index, speaker, start), (_, _, end) in itertools.pairwise(rows.tolist()):
        wave = samples[start * FRAME : end * FRAME].astype(np.float32) / 32767
        sentence = Sentence(*planned(index, seed), speaker, units[start:end].astype(np.int64), wave)
        split[index >= SENTENCES].append(sentence)
    return split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    espeak = Espeak()
    spoken: list[tuple[int, int, Spoken]] = []
    for index in range(SENTENCES + HELD_OUT):
        concept, lang = planned(index, args.seed)
        paired = index < PAIRS or index >= SENTENCES
        spoken += [(index, s, synthesize(espeak, text(concept, lang), lang, s)) for s in range(1 + paired)]
    frames = {index: log_mel(first.samples) for index, speaker, first in spoken if speaker == 0}
    training = np.concatenate([frame for index, frame in frames.items() if index < PAIRS])
    means = MiniBatchKMeans(UNITS, batch_size=4096, n_init="auto", max_iter=60, random_state=args.seed).fit(training)
    units = {index: means.predict(frame) for index, frame in frames.items()}
    firsts = {index: first for index, speaker, first in spoken if speaker == 0}
    kept: list[tuple[int, int, np.ndarray, np.ndarray]] = []
    for index, speaker, one in spoken:
        places = np.arange(len(units[index])) if speaker == 0 else carried(firsts[index], one)
        if places is not None:
            kept.append((index, speaker, units[index][places], (one.samples.clip(-1, 1) * 32767).astype(np.int16)))
    starts = np.cumsum([0, *(len(row[2]) for row in kept)])
    rows = [(index, speaker, start) for (index, speaker, _, _), start in zip(kept, starts, strict=False)]
    np.savez(
        args.work / "units.npz",
        samples=np.concatenate([row[3] for row in kept]),
        units=np.concatenate([row[2] for row in kept]).astype(np.int16),
        rows=np.array([*rows, (-1, -1, starts[-1])]),
        centres=means.cluster_centers_,
    )
    print(
        f"{len(kept)} utterances, {starts[-1] / 50 / 3600:.2f} h, {len(spoken) - len(kept)} pairs whose phonemes differ"
    )


if __name__ == "__main__":
    main()
