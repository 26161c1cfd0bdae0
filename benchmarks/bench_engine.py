"""The engine as a whole, against others in the same run.

    python -m benchmarks.bench_engine --device cuda
    python -m benchmarks.bench_engine --device cpu --suite load --quick
    python -m benchmarks.bench_engine --device cpu --against transformers
    python -m benchmarks.bench_engine --device cpu --against transformers,ctranslate2 --trace ragged
    python -m benchmarks.bench_engine --device cpu --against transformers --trace ragged --tasks s2tt

Every output has a forced length, so all sides do the same work; times are the median of --repeats.

`--suite load`, the default on a GPU, is bench_load.py: v2-large, 1 to 256 requests at once, by stage. `--suite trace`,
the default on a CPU, has a smaller model, and clips and sentences of a committed trace; `--trace ragged` of it is
bench_ragged.py: tokens a second of text tasks, others at their best settings.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks import bench_load
from benchmarks.bench_ragged import bench_ragged
from benchmarks.common import machine, print_table, timed, write_json
from benchmarks.workload import DIMS, RATE, TASKS, Item, bench_checkpoint, items
from seamless_engine import Engine, Result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--suite", choices=("load", "trace"), help="default: load on a GPU, trace on a CPU")
    parser.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), help="default: bfloat16 for load on a GPU"
    )
    parser.add_argument(
        "--against",
        type=_names,
        help="transformers, ctranslate2, both with a comma, none; default: transformers in load",
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, help="default: all, or t2tt of the ragged trace")
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--checkpoint", type=Path, help="folder to keep the random checkpoint in between runs")
    parser.add_argument("--json", type=Path, help="default: in benchmarks/results")
    trace = parser.add_argument_group("--suite trace")
    trace.add_argument("--trace", choices=("even", "ragged"), default="even")
    trace.add_argument("--batch", type=int, nargs="+", default=[1, 16], help="requests given at once, even trace")
    bench_load.add_options(parser.add_argument_group("--suite load"))
    options = parser.parse_args()
    if (options.suite or ("load" if options.device == "cuda" else "trace")) == "load":
        options.against = ["transformers"] if options.against is None else options.against
        if "ctranslate2" in options.against:
            parser.error("ctranslate2 takes part in --suite trace --trace ragged")
        return bench_load.bench_load(options)
    options.dtype, options.against = options.dtype or "float32", options.against or []
    options.tasks = options.tasks or (list(TASKS) if options.trace == "even" else ["t2tt"])
    with tempfile.TemporaryDirectory() as scratch:
        folder = bench_checkpoint(options.checkpoint or Path(scratch))
        if options.trace == "ragged":
            return bench_ragged(options, folder)
        rows = run(options, folder)
    facts = machine(options.device)
    print("  ".join(f"{key}={value}" for key, value in facts.items()))
    columns = list(rows[0])
    print_table(columns, [[row[column] for column in columns] for row in rows])
    target = options.json or Path(f"benchmarks/results/engine-{options.device}.json")
    write_json(target, {"machine": facts, "dims": DIMS, "dtype": options.dtype, "rows": rows})


def _names(text: str) -> list[str]:
    names = [name for name in text.split(",") if name and name != "none"]
    unknown = set(names) - {"transformers", "ctranslate2"}
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
    return names


def run(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for task in options.tasks:
        engine = Engine.from_pretrained(folder, tasks=[task], device=options.device, dtype=options.dtype)
        theirs = None
        if "transformers" in options.against:
            from benchmarks.baseline import Transformers

            theirs = Transformers(folder, task, options.device, getattr(torch, options.dtype))
        for batch in options.batch:
            work = items(task, batch)
            for beams in options.beams:
                rows.append(_compare(engine, theirs, task, work, beams, options))
                print("  ".join(f"{key}={value}" for key, value in rows[-1].items()), flush=True)
    return rows


def _compare(
    engine: Engine, theirs: Any, task: str, work: list[Item], beams: int, options: argparse.Namespace
) -> dict[str, Any]:
    requests = [item.request(task, beams) for item in work]
    engine.generate(requests[:1])
    ours: list[float] = []
    results: list[Result] = []
    for _ in range(options.repeats):
        seconds, results = timed(lambda: engine.generate(requests), options.device)
        ours.append(seconds)
    failed = [result.error for result in results if result.error]
    if failed:
        raise SystemExit(f"{len(failed)} requests failed, the first with: {failed[0]}")
    audio_in = sum(len(item.waveform) for item in work if item.waveform is not None) / RATE
    audio_out = sum(len(result.audio) for result in results if result.audio is not None) / RATE
    row: dict[str, Any] = {
        "task": task,
        "batch": len(work),
        "beams": beams,
        "ours_s": round(statistics.median(ours), 3),
        "audio_in_s": round(audio_in, 1),
        "audio_out_s": round(audio_out, 1),
    }
    if theirs is not None:
        theirs.generate(work[:1], beams)
        seconds = [timed(lambda: theirs.generate(work, beams), options.device) for _ in range(options.repeats)]
        row["theirs_s"] = round(statistics.median(s for s, _ in seconds), 3)
        row["theirs_out_s"] = round(seconds[0][1][1], 1)
        row["ratio"] = round(row["theirs_s"] / row["ours_s"], 2)
    return row


if __name__ == "__main__":
    main()
