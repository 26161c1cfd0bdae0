"""Held-out utterances as files, for tools.quality.

    python -m demo.train.manifest --work DIR [--count 400]

writes DIR/test/*.wav and DIR/test/manifest.jsonl: clips of the test split, their texts, a translation into another
language, and the units of the translation as the first speaker says it. DIR/heldout.jsonl has the texts alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from demo.train.clips import audio, clip
from demo.train.domain import text
from demo.train.network import FIRST_UNIT
from demo.train.units import log_mel, synthesize
from demo.train.voices import RATE, Espeak
from demo.train.words import LANGUAGES
from seamless_engine.audio_output import write_audio


def nearest(frames: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The cluster of each frame."""
    return (np.square(centres).sum(1) - 2 * frames @ centres.T).argmin(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = args.work / "test"
    folder.mkdir(parents=True, exist_ok=True)
    with np.load(args.work / "units.npz") as stored:
        centres = stored["centres"]
    espeak = Espeak()
    lines, sentences = [], []
    for index in range(args.count):
        one = clip("test", index, args.seed)
        target = LANGUAGES[(LANGUAGES.index(one.lang) + 1 + index % 3) % 4]
        translation = text(one.concept, target)
        name = f"{index:04d}-{one.lang}.wav"
        write_audio(folder / name, audio(espeak, one), RATE)
        units = nearest(log_mel(synthesize(espeak, translation, target, 0).samples), centres) + FIRST_UNIT
        item = {"audio": name, "src_lang": one.lang, "text": one.text, "tgt_lang": target, "translation": translation}
        lines.append(json.dumps({**item, "speaker_id": index % 2, "units": units.tolist()}, ensure_ascii=False))
        sentences.append(json.dumps({key: item[key] for key in item if key != "audio"}, ensure_ascii=False))
    (args.work / "heldout.jsonl").write_text("\n".join(sentences) + "\n", encoding="utf-8")
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{args.count} utterances in {folder}")


if __name__ == "__main__":
    main()
