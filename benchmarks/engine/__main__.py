"""The engine as a whole, against others in the same run.

    python -m benchmarks.engine --device cuda
    python -m benchmarks.engine --device cpu --suite load --quick
    python -m benchmarks.engine --device cpu --against transformers
    python -m benchmarks.engine --device cpu --against transformers,ctranslate2 --suite ragged --repeats 2
    python -m benchmarks.engine --device cpu --against transformers --suite ragged --tasks s2tt

Every output has a forced length, so all sides do the same work; times are the median of --repeats.

`load`, the default on a GPU: v2-large's dims, 256, 1, 64 and 8 requests of fixed and of ragged lengths. What says most
comes first, and what --seconds do not last for is listed. On a GPU our engine leaves the device before transformers
takes it, in bfloat16 and in float16. `trace`, the default on a CPU: a smaller model, clips and sentences of a committed
trace, transformers with all requests in one padded batch. `ragged`: the same model and 64 requests of ragged lengths at
once, ours in 8 bits too. In load and ragged the others have their best batch size, found by a sweep.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import roofline
from benchmarks.engine.floors import Floors
from benchmarks.engine.load import Level, LoadGenerator, release
from benchmarks.engine.sides import STAGES, Ours, Side, first_line, print_agreement
from benchmarks.engine.workload import MEDIUM, TASKS, TINY, random_checkpoint
from benchmarks.host import scratch_folder
from benchmarks.report import RESULTS, machine, print_facts, print_table, write_json
from seamless_engine.config import INT8_MODULES, EngineConfig, ModelConfig

_OUR_SHARE = 0.4  # of --seconds, where others come afterwards
_COLUMNS = {
    "RTFx": "rtfx",
    "tok/s": "tokens_s",
    "p50 s": "p50_s",
    "p95 s": "p95_s",
    "GiB": "peak_gib",
    "of floor": "share",
}
Loaders = dict[str, Callable[[], Side]]


# batches: what transformers is swept over, with the numbers at once; 0 alone: all requests of a level.
# enough: seconds of a level's rounds.
SUITES: dict[str, dict[str, Any]] = {
    "trace": {"dims": MEDIUM, "lengths": ["even"], "tasks": TASKS, "at_once": [1, 16], "batches": [0]},
    "ragged": {"dims": MEDIUM, "lengths": ["ragged"], "tasks": ["t2tt"], "at_once": [64], "batches": [4, 8, 16, 32]},
    "load": {
        **{"dims": {}, "lengths": ["fixed", "ragged"], "tasks": ["s2st", "s2tt", "t2tt", "t2st"]},
        **{"at_once": [256, 1, 64, 8], "batches": [1, 8, 32, 64, 128], "seconds": 480.0, "enough": 5.0},
        "against": "transformers",
    },
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--suite", choices=SUITES, help="default: load on a GPU, trace on a CPU")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="default: bfloat16 on a GPU")
    parser.add_argument("--against", help="transformers, ctranslate2, both with a comma, or none; load: transformers")
    parser.add_argument("--tasks", nargs="+", choices=TASKS)
    parser.add_argument("--lengths", nargs="+", choices=("even", "fixed", "ragged"))
    parser.add_argument("--beams", type=int, nargs="+", default=[5, 1])
    parser.add_argument("--at-once", type=int, nargs="+", help="requests handed over together")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, help="for everything; load: 480")
    parser.add_argument("--json", type=Path, help="default: in benchmarks/results")
    parser.add_argument("--quick", action="store_true", help="tiny dims and short inputs, to try the benchmark itself")
    parser.set_defaults(seconds=math.inf, enough=math.inf, against="none")
    options, _ = parser.parse_known_args()
    gpu = options.device == "cuda"
    suite = options.suite or ("load" if gpu else "trace")
    parser.set_defaults(suite=suite, dtype="bfloat16" if gpu else "float32", **SUITES[suite])
    options = parser.parse_args()
    options.against = options.against.split(",")
    if unknown := {*options.against} - {"transformers", "ctranslate2", "none"}:
        parser.error(f"--against: unknown: {', '.join(sorted(unknown))}")
    if options.quick:
        options.dims = TINY
        options.at_once = list(dict.fromkeys(min(count, 4) for count in options.at_once))
    return options


def sessions(options: argparse.Namespace, folder: Path) -> Iterator[tuple[Loaders, list[Level]]]:
    """Sides that are loaded together, and the levels that they answer: on a CPU task by task, on a GPU one by one."""
    kinds = itertools.product(options.beams, options.lengths, options.tasks)
    groups = [[Level(task, lengths, beams, n) for n in options.at_once] for beams, lengths, task in kinds]
    if options.device == "cpu":
        for task in options.tasks:
            levels = [level for group in groups for level in group if level.task == task]
            yield _ours(options, folder, [task]) | _others(options, folder, task), levels
        return
    yield _ours(options, folder, options.tasks), list(itertools.chain(*groups))
    for group in groups:
        yield from (({name: load}, group) for name, load in _others(options, folder, group[0].task).items())


def _ours(options: argparse.Namespace, folder: Path, tasks: Sequence[str]) -> Loaders:
    where = folder, tasks, options.device, options.dtype
    load = partial(Ours, *where, may_end=options.suite != "load")
    int8: Loaders = {"ours int8": partial(load, EngineConfig(int8=INT8_MODULES))} if options.suite == "ragged" else {}
    return {"ours": partial(load, EngineConfig()), **int8}


def _others(options: argparse.Namespace, folder: Path, task: str) -> Loaders:
    found: Loaders = {}
    if "transformers" in options.against:
        from benchmarks.engine.transformers_side import Transformers

        swept = len(options.batches) > 1
        batches = sorted({*options.batches, *options.at_once}) if swept else options.batches
        for dtype in dict.fromkeys([options.dtype, *(("bfloat16", "float16") if options.device == "cuda" else ())]):
            name = "transformers" if dtype == options.dtype else f"transformers {dtype}"
            found[name] = partial(Transformers, folder, task, options.device, dtype, batches)
    if "ctranslate2" in options.against and task == "t2tt":
        from benchmarks.engine.ctranslate2_side import CTranslate2, convert

        model, config = convert(folder, folder / "ctranslate2"), ModelConfig.from_folder(folder)
        for kind, inter in itertools.product(("float32", "int8"), sorted({1, torch.get_num_threads()})):
            found[f"ctranslate2 {kind}, {inter} at a time"] = partial(CTranslate2, model, kind, config, inter)
    return found


def rows_of(loaders: Loaders, levels: list[Level], generator: LoadGenerator) -> Iterator[dict[str, Any]]:
    """The rows of a session."""
    sides: dict[str, Side] = {}
    status = "not reached"
    try:
        if generator.left() > 0:
            sides = {name: load() for name, load in loaders.items()}
            if len(sides) > 1 and levels[0].task.endswith("tt"):
                print_agreement(sides, levels[0].task, generator.work(levels[0]))
    except Exception as error:
        status, sides = f"failed: {first_line(error)}", {}
    for level in levels:
        if sides and generator.left() > 0:
            yield from generator.measure(sides, level)
        else:
            yield from ({**level._asdict(), "side": name, "setting": "", "status": status} for name in loaders)
    for side in sides.values():
        side.close()


def show(rows: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    """Two tables. "ours is": how many times as fast as a side, by wall and by processor time."""
    ours = {_level(row): row for row in rows if row["side"] == "ours" and "wall_s" in row}

    def ratio(row: dict[str, Any], key: str) -> float | None:
        base = ours.get(_level(row))
        return row[key] / base[key] if base and key in row else None

    stages = [[*_level(row), row["side"], *_milliseconds(row["stages_s"])] for row in rows if "stages_s" in row]
    stages += [[*level, "floor", *_milliseconds(row["floor_s"])] for level, row in ours.items()]
    print("\nmilliseconds by stage, of all requests of a level")
    print_table((*Level._fields, "side", *STAGES, "all"), stages)
    print()
    print_facts(facts)
    lines = [
        [*_level(row), row["side"], row["setting"], row.get("wall_s", row["status"].split(":")[0])]
        + [*(row.get(key) for key in _COLUMNS.values()), ratio(row, "wall_s"), ratio(row, "cpu_s")]
        for row in rows
    ]
    print_table((*Level._fields, "side", "setting", "s", *_COLUMNS, "ours is", "by cpu"), lines)


def _level(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in Level._fields)


def _milliseconds(stages: dict[str, float]) -> list[str]:
    return [f"{1e3 * seconds:.2f}" for seconds in (*(stages.get(name, 0.0) for name in STAGES), sum(stages.values()))]


def main() -> None:
    options, start = parse(), time.monotonic()
    device, dtype = options.device, getattr(torch, options.dtype)
    name = {"trace": "engine", "load": "load", "ragged": f"ragged-{'-'.join(options.tasks)}"}[options.suite]
    target = options.json or RESULTS / f"{name}-{device}.json"
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=scratch_folder()) as scratch:
        folder = random_checkpoint(Path(scratch), options.dims, device, endless=options.suite == "load")
        config, ceilings = ModelConfig.from_folder(folder), roofline.measure(torch.device(device), dtype)
        facts, floors = machine(device, dtype, ceilings), Floors(config, ceilings, dtype.itemsize)
        generator = LoadGenerator(config, floors, options)
        for loaders, levels in sessions(options, folder):
            shares = device == "cuda" and "ours" in loaders and "transformers" in options.against
            generator.end = start + options.seconds * (_OUR_SHARE if shares else 1.0)
            for row in rows_of(loaders, levels, generator):
                rows.append(row)
                print(*(row[key] for key in (*Level._fields, "side", "setting", "status")), flush=True)
                write_json(target, {"machine": facts, "dims": options.dims or "v2-large", "rows": rows}, quiet=True)
            release()
    print(f"written: {target}, after {time.monotonic() - start:.0f} s")
    show(rows, facts)
    if any(row["side"].startswith("ours") and row["status"].startswith("failed") for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
