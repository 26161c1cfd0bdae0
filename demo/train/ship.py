"""What the repository takes over of a finished run: checkpoint, held-out sentences, a dozen clips, the curves.

    python -m demo.train.ship --work DIR --checkpoint DIR/checkpoint [--demo demo]

The clips are the first three of each language in the manifest, whatever the model makes of them.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from pathlib import Path

from benchmarks.report import write_json
from demo.train.words import LANGUAGES

EACH = 3


def clips(work: Path, audio: Path) -> None:
    """Wavs and texts.tsv; a clip that is not of the recipe, the human one, keeps its row and its file."""
    table = audio / "texts.tsv"
    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    kept = [row for row in rows if not row[4]]
    for row in rows:
        if row[4]:
            (audio / row[0]).unlink()
    items = [json.loads(line) for line in (work / "test" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    chosen = [item for lang in LANGUAGES for item in [i for i in items if i["src_lang"] == lang][:EACH]]
    made = []
    for number, item in enumerate(chosen, 1):
        name = f"{number}-{item['src_lang']}.wav"
        shutil.copyfile(work / "test" / item["audio"], audio / name)
        made.append([name, item["src_lang"], item["text"], item["tgt_lang"], item["translation"]])
    with open(table, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows([*made, *kept])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--demo", type=Path, default=Path("demo"))
    args = parser.parse_args()
    for path in args.checkpoint.iterdir():
        if path.name != "figures.json":
            shutil.copyfile(path, args.demo / "checkpoint" / path.name)
    figures = json.loads((args.checkpoint / "figures.json").read_text(encoding="utf-8"))
    write_json(args.demo / "checkpoint" / "figures.json", {key: figures[key] for key in figures if key != "answers"})
    shutil.copyfile(args.work / "heldout.jsonl", args.demo / "heldout.jsonl")
    clips(args.work, args.demo / "audio")
    for path in args.work.glob("*.csv"):
        shutil.copyfile(path, args.demo / "checkpoint" / f"training-{path.name}")
    print(f"{args.demo}: now write the figures into {args.demo / 'checkpoint' / 'README.md'}")


if __name__ == "__main__":
    main()
