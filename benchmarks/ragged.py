"""The ragged trace: 64 requests whose lengths have a long tail. `python -m benchmarks.ragged` writes ragged.json again.

    source tokens = 26 · exp(0.75 z)      seconds of audio = 5.5 · exp(0.6 z)
    new tokens = source tokens · exp(0.05 + 0.25 z'), or 3.2 tokens a second · exp(0.2 z')

with z, z' normal and independent, one seed, clipped to 5 … 256 tokens and 1 … 30 s. Source tokens count the language
and eos; new tokens are what is generated after the two tokens of the prompt.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PATH = Path(__file__).parent / "ragged.json"
COUNT = 64


def load() -> dict[str, Any]:
    """{"clips": [{"seconds", "new_tokens"}], "sentences": [{"source_tokens", "new_tokens"}]}"""
    return json.loads(PATH.read_text(encoding="utf-8"))


def summary(lengths: Sequence[float]) -> str:
    ordered = sorted(lengths)
    p95 = ordered[math.ceil(0.95 * len(ordered)) - 1]
    return f"min {ordered[0]:g}, median {ordered[len(ordered) // 2]:g}, p95 {p95:g}, max {ordered[-1]:g}"


def make() -> dict[str, list[dict[str, float]]]:
    rng = random.Random(0)
    clips, sentences = [], []
    for _ in range(COUNT):
        seconds = min(max(round(rng.lognormvariate(math.log(5.5), 0.6), 2), 1.0), 30.0)
        clips.append({"seconds": seconds, "new_tokens": _tokens(3.2 * seconds * rng.lognormvariate(0.0, 0.2))})
    for _ in range(COUNT):
        source = _tokens(rng.lognormvariate(math.log(26), 0.75))
        sentences.append({"source_tokens": source, "new_tokens": _tokens(source * rng.lognormvariate(0.05, 0.25))})
    return {"clips": clips, "sentences": sentences}


def _tokens(value: float) -> int:
    return min(max(round(value), 5), 256)


def main() -> None:
    trace = make()
    kinds = [(name, key) for name, lines in trace.items() for key in lines[0]]
    about = {f"{name}, {key}": summary([line[key] for line in trace[name]]) for name, key in kinds}
    body = ",\n".join(
        f' "{name}": [\n' + ",\n".join(f"  {json.dumps(line)}" for line in lines) + "\n ]"
        for name, lines in trace.items()
    )
    PATH.write_text('{\n "about": ' + json.dumps(about, indent=1).replace("\n", "\n ") + f",\n{body}\n}}\n", "utf-8")
    print(json.dumps(about, indent=1))


if __name__ == "__main__":
    main()
