"""Durations of characters, for the unit model: how many units each character of a sentence lasts.

    python -m demo.train.align --work DIR

writes DIR/durations.npz: durations int16, packed, and bounds int64 [sentences + 1], in the order of the first speaker's
sentences of `units.load`, those to train on and then the held-out ones.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from demo.train.alignment import durations, first_frames
from demo.train.clips import features
from demo.train.network import Translator, build
from demo.train.tokens import Tokens
from demo.train.units import Sentence, load

TOGETHER = 16


def translator(work: Path, tokens: Tokens, hidden: int, device: str = "cpu") -> Translator:
    """The trained one. Raises FileNotFoundError where there is none yet."""
    path = work / "speech_text.pt"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: run python -m demo.train.speech_text --work {work} first")
    net = Translator(build(tokens, hidden), tokens)
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["net"])
    return net.to(device).eval()


def unit_features(sentence: Sentence) -> np.ndarray:
    """Features [units, 160], one frame centred in every unit, at the level and with the noise of a recording."""
    samples = np.pad(sentence.samples, (120, 280))
    return features(samples + 1e-4 * np.random.default_rng(0).standard_normal(len(samples)).astype(np.float32))


@torch.no_grad()
def aligned(net: Translator, sentences: list[Sentence]) -> list[np.ndarray]:
    """Durations of each sentence's characters, the word boundary in front included."""
    made = [unit_features(s) for s in sentences]
    x = torch.zeros(len(made), max(map(len, made)), 160)
    mask = torch.zeros(x.shape[:2], dtype=torch.long)
    for i, frames in enumerate(made):
        x[i, : len(frames)], mask[i, : len(frames)] = torch.from_numpy(frames), 1
    net.hear(x, mask)
    scores = net.ctc(net.frames).log_softmax(-1).numpy()
    return [
        durations(first_frames(score[: len(s.units)], net.tokens.heard(s.text)), len(s.units))
        for score, s in zip(scores, sentences, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hidden", type=int, default=128)
    args = parser.parse_args()
    torch.set_num_threads(1)
    net = translator(args.work, Tokens(args.work), args.hidden)
    sentences = [s for split in load(args.work, args.seed) for s in split if s.speaker == 0]
    made: list[np.ndarray] = []
    for first in range(0, len(sentences), TOGETHER):
        made += aligned(net, sentences[first : first + TOGETHER])
    packed = np.concatenate(made)
    bounds = np.cumsum([0, *map(len, made)])
    np.savez(args.work / "durations.npz", durations=packed.astype(np.int16), bounds=bounds)
    print(f"{len(made)} sentences, {packed.mean():.2f} units a character, 99 % at most {np.percentile(packed, 99):.0f}")


if __name__ == "__main__":
    main()
