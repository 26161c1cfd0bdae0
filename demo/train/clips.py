"""Synthetic speech: what clip i of a split says, and how, is a function of (seed, split, i).

    python -m demo.train.clips --work DIR [--hours 9] [--processes 2] [--minutes 8]

writes DIR/clips/{split}-{shard}.npz, 500 clips each: features float16 [frames, 160] of the engine's filter bank (20 ms
a frame), bounds int64 [501] of the clips in frames, and a digest. Sentence, language and voice are not stored: `clip`
derives them again.
Shards that are there are kept. espeak-ng carries its noise and phase from one sentence to the next, so a fresh process
makes a shard, in order: the same seed gives the same samples.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from demo.train.domain import Concept, sample_concept, text
from demo.train.voices import ACCENTS, RATE, VARIANTS, Espeak
from demo.train.words import LANGUAGES
from seamless_kernels.fbank import fbank

SHARD = 500
SPLITS = {"train": False, "dev": True, "test": True}  # whether the concepts are held-out ones
SECONDS = 3.0  # a clip's mean length, silence included: how many shards make an hour


class Clip(NamedTuple):
    """One utterance as planned: `audio` makes it heard."""

    concept: Concept
    lang: str
    voice: str
    words_per_minute: int
    pitch: int
    seed: int

    @property
    def text(self) -> str:
        return text(self.concept, self.lang)


def clip(split: str, index: int, seed: int = 0) -> Clip:
    number = zlib.crc32(f"{seed}/{split}/{index}".encode())
    rng = random.Random(number)
    concept = sample_concept(rng, SPLITS[split])
    lang = rng.choice(LANGUAGES)
    voice = rng.choice(ACCENTS[lang]) + rng.choice(VARIANTS)
    return Clip(concept, lang, voice, rng.randint(110, 165), rng.randint(30, 75), number)


def digest(clips: list[Clip]) -> int:
    """Of languages and texts: features must not be trained on with those of another domain."""
    return zlib.crc32("\n".join(f"{one.lang} {one.text}" for one in clips).encode())


def audio(espeak: Espeak, clip: Clip) -> np.ndarray:
    """float32 [n] at 16 kHz: speech between silences, at a level of its own, three times in four with noise.

    espeak-ng's own lead is always 15 ms: a model that heard no other hears other words after a longer one. So the
    silences vary, and without noise they are exact zeros.
    """
    rng = np.random.default_rng(clip.seed)
    speech = espeak.say(clip.text, clip.voice, clip.words_per_minute, clip.pitch).samples
    lead, tail = (int(RATE * silence(rng)) for _ in range(2))
    samples = np.pad(speech, (lead, tail)) * 10 ** (rng.uniform(-20, 0) / 20)
    if rng.random() < 0.75:
        level = np.sqrt(np.mean(samples**2)) * 10 ** (-rng.uniform(10, 45) / 20)
        samples = samples + level * rng.standard_normal(len(samples))
    return samples.clip(-1, 1).astype(np.float32)


def silence(rng: np.random.Generator) -> float:
    """Seconds: none, short, or up to one second."""
    return float(rng.choice([0.0, rng.uniform(0, 0.3), rng.uniform(0.3, 1.0)], p=[0.3, 0.5, 0.2]))


def features(samples: np.ndarray) -> np.ndarray:
    """float32 [frames, 160], 20 ms a frame; half a frame at the end is left out."""
    output = fbank(torch.from_numpy(samples), [0, len(samples)])
    return output.features[: int(output.valid)].numpy()


class Store:
    """The clips of a split that are on disk, in memory."""

    def __init__(self, work: Path, split: str, seed: int = 0) -> None:
        paths = sorted((work / "clips").glob(f"{split}-*.npz"))
        if not paths:
            raise FileNotFoundError(f"no clips in {work}/clips: run python -m demo.train.clips --work {work} first")
        self.clips: list[Clip] = []
        self.features: list[np.ndarray] = []
        for path in paths:
            first = SHARD * int(path.stem.partition("-")[2])
            with np.load(path) as shard:
                bounds = shard["bounds"]
                self.features += np.split(shard["features"], bounds[1:-1])
                made_of = int(shard["digest"])
            clips = [clip(split, first + i, seed) for i in range(len(bounds) - 1)]
            if digest(clips) != made_of:
                raise ValueError(f"{path} says other sentences than this seed and this domain: delete {work}/clips")
            self.clips += clips
        self.lengths = np.array([len(f) for f in self.features])

    def __len__(self) -> int:
        return len(self.clips)


def write_shard(path: Path, split: str, first: int, seed: int) -> float:
    """Hours of speech. Runs in a process of its own."""
    torch.set_num_threads(1)
    espeak = Espeak()
    clips = [clip(split, first + i, seed) for i in range(SHARD)]
    made = [features(audio(espeak, one)).astype(np.float16) for one in clips]
    bounds = np.cumsum([0, *map(len, made)])
    with open(path.with_suffix(".tmp"), "wb") as file:
        np.savez(file, features=np.concatenate(made), bounds=bounds, digest=digest(clips))
    path.with_suffix(".tmp").rename(path)
    return bounds[-1] / 50 / 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--hours", type=float, default=9.0, help="of training clips")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=8.0, help="stop after so long; run again to go on")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = args.work / "clips"
    folder.mkdir(parents=True, exist_ok=True)
    shards = {"dev": 1, "test": 2, "train": round(args.hours * 3600 / SECONDS / SHARD)}
    stop = time.monotonic() + 60 * args.minutes
    plans = [(folder / f"{split}-{i:04d}.npz", split, SHARD * i) for split, n in shards.items() for i in range(n)]
    plans = [plan for plan in plans if not plan[0].exists()]
    pool = ProcessPoolExecutor(args.processes, multiprocessing.get_context("spawn"), max_tasks_per_child=1)
    with pool:
        while plans and time.monotonic() < stop:
            now, plans = plans[: args.processes], plans[args.processes :]
            futures = [pool.submit(write_shard, *plan, args.seed) for plan in now]
            for plan, future in zip(now, futures, strict=True):
                print(f"{plan[0].name}: {future.result():.2f} h, {len(plans)} shards to go", flush=True)
    if not plans:
        (args.work / "clips.done").touch()


if __name__ == "__main__":
    main()
