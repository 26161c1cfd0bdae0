"""How far the engine agrees with transformers at batch size 1, and with itself alone, over many random checkpoints.

    .venv/bin/python tests/parity_table.py --checkpoints 24 --requests 60

Prints a table by task and stores it as JSON. Exits with 1 if anything differs that a near-tie does not excuse.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import torch

from seamless_engine import Engine
from seamless_engine.request import TASKS
from support.checkpoint import write_tiny
from support.oracle import Oracle
from support.parity import Agreement, agreement, random_request, same


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=24, help="random checkpoints, a third of each shape")
    parser.add_argument("--requests", type=int, default=60, help="random requests for each checkpoint, in one batch")
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="where to store the table")
    options = parser.parse_args()
    found: dict[str, list[Agreement]] = defaultdict(list)
    alone: dict[str, list[bool]] = defaultdict(list)
    for seed in range(options.first_seed, options.first_seed + options.checkpoints):
        with tempfile.TemporaryDirectory() as scratch:
            folder = write_tiny(scratch, seed)
            engine, oracle, rng = (
                Engine.from_pretrained(folder, device="cpu"),
                Oracle(folder, torch.float32),
                random.Random(seed),
            )
            requests = [random_request(rng, engine.languages("s2st")) for _ in range(options.requests)]
            for request, result in zip(requests, engine.generate(requests), strict=True):
                found[request.task].append(agreement(result, request, oracle))
                alone[request.task].append(same(engine.generate([request])[0], result))
        print(f"checkpoint {seed} done", file=sys.stderr)
    table = [row(task, found[task], alone[task]) for task in TASKS]
    columns = list(table[0])
    for line in [columns, *([str(entry[column]) for column in columns] for entry in table)]:
        print("  ".join(cell.rjust(max(len(c), 14)) for cell, c in zip(line, columns, strict=True)))
    if options.json:
        options.json.write_text(json.dumps({"checkpoints": options.checkpoints, "rows": table}, indent=1) + "\n")
    wrong = sum(not one.holds for many in found.values() for one in many) + sum(
        not s for many in alone.values() for s in many
    )
    print(f"{options.checkpoints} checkpoints, {wrong} unexcused differences")
    return int(wrong > 0)


def row(task: str, found: list[Agreement], alone: list[bool]) -> dict[str, str]:
    units = [one.units for one in found if one.units is not None]
    waves = [one.waveform for one in found if one.waveform is not None]
    return {
        "task": task,
        "tokens equal": f"{sum(one.tokens for one in found)}/{len(found)}",
        "units equal": f"{sum(units)}/{len(units)}" if units else "-",
        "waveform max": f"{max(waves):.1e}" if waves else "-",
        "near-ties": str(sum(one.excused for one in found)),
        "batched = alone": f"{sum(alone)}/{len(alone)}",
    }


if __name__ == "__main__":
    sys.exit(main())
