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
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import roofline
from benchmarks.engine.floors import Floors
from benchmarks.engine.load import Level, LoadGenerator, release
from benchmarks.engine.report import Report
from benchmarks.engine.sides import Ours, Side, first_line, print_agreement
from benchmarks.engine.workload import MEDIUM, TASKS, TINY, random_checkpoint, scratch_folder
from benchmarks.report import RESULTS, machine
from seamless_engine.config import INT8_MODULES, EngineConfig, ModelConfig

_OUR_SHARE = 0.4  # of --seconds, where others come afterwards
Loaders = dict[str, Callable[[], Side]]


@dataclass(frozen=True)
class Suite:
    """batches: what transformers is swept over with the numbers at once; 0 alone: all requests of a level. enough:
    seconds of a level's rounds."""

    dims: dict[str, Any]
    lengths: tuple[str, ...]
    tasks: tuple[str, ...]
    at_once: tuple[int, ...]
    batches: tuple[int, ...]
    seconds: float = math.inf
    enough: float = math.inf


_SPEECH_FIRST, _SWEPT = ("s2st", "s2tt", "t2tt", "t2st"), (1, 8, 32, 64, 128)
SUITES = {
    "trace": Suite(MEDIUM, ("even",), TASKS, (1, 16), (0,)),
    "ragged": Suite(MEDIUM, ("ragged",), ("t2tt",), (64,), (4, 8, 16, 32)),
    "load": Suite({}, ("fixed", "ragged"), _SPEECH_FIRST, (256, 1, 64, 8), _SWEPT, seconds=480.0, enough=5.0),
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
    parser.add_argument("--max-num-seqs", type=int, default=EngineConfig.max_num_seqs, help="of our engine")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, help="for everything; load: 480")
    parser.add_argument("--checkpoint", type=Path, help="folder to keep the random checkpoint in between runs")
    parser.add_argument("--json", type=Path, help="default: in benchmarks/results")
    parser.add_argument("--quick", action="store_true", help="tiny dims and short inputs, to try the benchmark itself")
    options = parser.parse_args()
    options.suite = options.suite or ("load" if options.device == "cuda" else "trace")
    for name in ("tasks", "lengths", "at_once", "seconds"):
        if getattr(options, name) is None:
            setattr(options, name, getattr(SUITES[options.suite], name))
    options.against = (options.against or ("transformers" if options.suite == "load" else "none")).split(",")
    if unknown := {*options.against} - {"transformers", "ctranslate2", "none"}:
        parser.error(f"--against: unknown: {', '.join(sorted(unknown))}")
    options.dtype = options.dtype or ("bfloat16" if options.device == "cuda" else "float32")
    if options.quick:
        options.at_once = list(dict.fromkeys(min(count, 4) for count in options.at_once))
    return options


def sessions(options: argparse.Namespace, folder: Path) -> Iterator[tuple[Loaders, list[Level]]]:
    """Sides that are loaded together, and the levels that they answer: on a CPU task by task, on a GPU one by one."""
    if options.device == "cpu":
        for task in options.tasks:
            kinds = [(lengths, beams) for beams in options.beams for lengths in options.lengths]
            levels = [Level(task, *kind, count) for kind in kinds for count in options.at_once]
            yield _ours(options, folder, [task]) | _others(options, folder, task), levels
        return
    groups = [
        [Level(task, lengths, beams, count) for count in options.at_once]
        for beams in options.beams
        for lengths in options.lengths
        for task in options.tasks
    ]
    yield _ours(options, folder, options.tasks), [level for levels in groups for level in levels]
    for levels in groups:
        yield from (({name: load}, levels) for name, load in _others(options, folder, levels[0].task).items())


def _ours(options: argparse.Namespace, folder: Path, tasks: Sequence[str]) -> Loaders:
    def load(int8: tuple[str, ...] = ()) -> Side:
        settings = EngineConfig(max_num_seqs=options.max_num_seqs, int8=int8)
        return Ours(folder, tasks, options.device, options.dtype, settings, may_end=options.suite != "load")

    int8: Loaders = {"ours int8": partial(load, INT8_MODULES)} if options.suite == "ragged" else {}
    return {"ours": load, **int8}


def _others(options: argparse.Namespace, folder: Path, task: str) -> Loaders:
    found: Loaders = {}
    if "transformers" in options.against:
        from benchmarks.engine.transformers_side import Transformers

        swept = SUITES[options.suite].batches
        batches = sorted({*swept, *options.at_once}) if len(swept) > 1 else swept
        for dtype in dict.fromkeys([options.dtype, *(("bfloat16", "float16") if options.device == "cuda" else ())]):
            name = "transformers" if dtype == options.dtype else f"transformers {dtype}"
            found[name] = partial(Transformers, folder, task, options.device, dtype, batches)
    if "ctranslate2" in options.against and task == "t2tt":
        from benchmarks.engine.ctranslate2_side import CTranslate2, convert

        files, config = convert(folder), ModelConfig.from_folder(folder)
        for kind in ("float32", "int8"):
            for inter in sorted({1, torch.get_num_threads()}):
                found[f"ctranslate2 {kind}, {inter} at a time"] = partial(CTranslate2, files, kind, config, inter)
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
            yield from ({**asdict(level), "side": name, "setting": "", "status": status} for name in loaders)
    for side in sides.values():
        side.close()


def main() -> None:
    options, start = parse(), time.monotonic()
    suite, dtype, load = SUITES[options.suite], getattr(torch, options.dtype), options.suite == "load"
    with tempfile.TemporaryDirectory(dir=scratch_folder()) as scratch:
        dims = TINY if options.quick else suite.dims
        folder = random_checkpoint(options.checkpoint or Path(scratch), dims, options.device, endless=load)
        config, ceilings = ModelConfig.from_folder(folder), roofline.measure(torch.device(options.device), dtype)
        head = {"machine": machine(options.device, dtype, ceilings), "dims": dims or "v2-large"}
        name = {"trace": "engine", "load": "load", "ragged": f"ragged-{'-'.join(options.tasks)}"}[options.suite]
        report = Report(options.json or RESULTS / f"{name}-{options.device}.json", head)
        scale, floors = 0.25 if options.quick else 1.0, Floors(config, ceilings, dtype.itemsize)
        largest, rounds = max(options.at_once), (options.repeats, suite.enough)
        generator = LoadGenerator(config, options.device, floors, scale, largest, *rounds)
        for loaders, levels in sessions(options, folder):
            shares = options.device == "cuda" and "ours" in loaders and "transformers" in options.against
            generator.end = start + options.seconds * (_OUR_SHARE if shares else 1.0)
            for row in rows_of(loaders, levels, generator):
                report.add(row)
            release()
    print(f"{time.monotonic() - start:.0f} s")
    report.finish()
    if any(row["side"].startswith("ours") and row["status"].startswith("failed") for row in report.rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
