"""Every step in its order, each until it has ended: the one command that makes the checkpoint.

    python -m demo.train --work DIR --out DIR/checkpoint [--minutes 8] [--device cuda --scale 10 --hidden 192]

With --minutes it stops after about so long, between or inside of steps; run it again, and it goes on where it stood.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

_TRAINING = ("seed", "hidden", "device", "threads", "scale", "minutes")
# A step, the file that tells that it has ended, and which of the options below it takes.
STEPS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("tokens", "sentencepiece.bpe.model", ("seed",)),
    ("clips", "clips.done", ("seed", "processes", "minutes")),
    ("units", "units.npz", ("seed",)),
    ("speech_text", "speech_text.done", (*_TRAINING, "hours")),
    ("align", "durations.npz", ("seed", "hidden")),
    ("t2u", "t2u.done", _TRAINING),
    ("vocoder", "vocoder.done", _TRAINING),
    ("manifest", "test/manifest.jsonl", ("seed",)),
)


def run(module: str, **options: object) -> None:
    """Raises SystemExit with the step's own code if it fails."""
    given = [word for key, value in options.items() if value is not None for word in (f"--{key}", str(value))]
    code = subprocess.run([sys.executable, "-m", module, *given], check=False).returncode
    if code:
        raise SystemExit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of all data and states")
    parser.add_argument("--out", type=Path, required=True, help="the checkpoint")
    parser.add_argument("--minutes", type=float, help="stop after about so long; run again to go on")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--scale", type=int, default=1, help="batches so many times as large, for a GPU")
    parser.add_argument("--hours", type=float, help="of speech that speech_text hears in all")
    args = parser.parse_args()
    stop = time.monotonic() + 60 * args.minutes if args.minutes else float("inf")
    for step, product, takes in STEPS:
        while not (args.work / product).exists():
            left = (stop - time.monotonic()) / 60
            if left <= 0:
                print(f"stopped before {step} has ended: run the same command again", flush=True)
                return
            print(f"{step} …", flush=True)
            options = {key: getattr(args, key) for key in takes} | (
                {"minutes": min(left, 8.0)} if "minutes" in takes else {}
            )
            run(f"demo.train.{step}", work=args.work, **options)
    run("demo.train.export", work=args.work, out=args.out, hidden=args.hidden)
    figures = args.out / "figures.json"
    manifest = args.work / "test" / "manifest.jsonl"
    run("tools.quality", checkpoint=args.out, manifest=manifest, beams=5, out=figures)


if __name__ == "__main__":
    main()
