"""The whole engine under load, against transformers: what `bench_engine` runs on a GPU (`--suite load`).

1, 8, 64 and 256 requests at once, of one length (10 s of audio or 36 tokens, 36 tokens out) and of the ragged trace, on
random weights in the dims of v2-large. First our engine answers all levels, then it leaves the device to transformers:
its dedicated classes with sdpa, in each of --dtypes, at the batch size that a sweep finds fastest. Levels that say most
come first; those for which --seconds do not last are listed as not reached. JSON, two plots, and last a table.
"""

from __future__ import annotations

import argparse
import gc
import math
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import kernel_bench, roofline
from benchmarks.common import timed
from benchmarks.floors import Floors
from benchmarks.load_levels import Level, Requests, levels
from benchmarks.load_report import Report
from benchmarks.load_sides import STAGES, Ours, Run, Theirs, by_length, first_line, sweep
from benchmarks.workload import RATE, TINY, Item, endless_checkpoint, fast_folder
from seamless_engine.config import EngineConfig, ModelConfig

BATCHES = (1, 8, 32, 64, 128)  # what transformers is swept over, with the numbers at once
_OUR_SHARE = 0.4  # of --seconds, where transformers comes afterwards
_ENOUGH = 5.0  # seconds of one level after which it is not repeated
_QUICK = 0.25  # of every length


@dataclass(frozen=True)
class Budget:
    """Seconds since `begun` that may be spent."""

    begun: float
    seconds: float

    def left(self) -> float:
        return self.begun + self.seconds - time.monotonic()


def add_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--seconds", type=float, default=480.0, help="for everything; what is not reached is listed")
    group.add_argument("--at-once", type=int, nargs="+", help="requests at once, in this order; default: 256 1 64 8")
    group.add_argument("--lengths", nargs="+", choices=("fixed", "ragged"), default=["fixed", "ragged"])
    group.add_argument("--dtypes", nargs="+", choices=("float32", "float16", "bfloat16"), help="of transformers")
    group.add_argument("--max-rows", type=int, help="of our engine; default: as EngineConfig has it")
    group.add_argument("--quick", action="store_true", help="tiny dims and short inputs, to try the benchmark itself")


def bench_load(options: argparse.Namespace) -> None:
    """Raises SystemExit with 1 if our engine failed anywhere."""
    begun = time.monotonic()
    dtype = options.dtype or ("bfloat16" if options.device == "cuda" else "float32")
    both = dict.fromkeys([dtype, "bfloat16", "float16"] if options.device == "cuda" else [dtype])
    dtypes = options.dtypes or list(both)
    dims = TINY if options.quick else {}
    with tempfile.TemporaryDirectory(dir=fast_folder()) as scratch:
        folder = options.checkpoint or Path(scratch)
        seconds, _ = timed(lambda: endless_checkpoint(folder, dims, options.device), options.device)
        _release()
        print(f"random checkpoint: {seconds:.1f} s", flush=True)
        config = ModelConfig.from_folder(folder)
        ceilings = roofline.measure(torch.device(options.device), getattr(torch, dtype))
        facts = kernel_bench.facts_of(torch.device(options.device), getattr(torch, dtype), ceilings)
        report = Report(
            options.json or Path(f"benchmarks/results/load-{options.device}.json"),
            {"machine": facts | _driver(options.device), "dims": dims or "v2-large", "dtype": dtype},
        )
        plan = list(
            levels(
                options.tasks or ["s2st", "s2tt", "t2tt", "t2st"],
                options.lengths,
                options.beams,
                options.at_once or ([4, 1] if options.quick else [256, 1, 64, 8]),
            )
        )
        requests = Requests(config, _QUICK if options.quick else 1.0)
        floors = Floors(config, ceilings, getattr(torch, dtype).itemsize)
        least: dict[Level, dict[str, float]] = {}
        share = _OUR_SHARE if "transformers" in options.against else 1.0
        for level, row, run in _ours(folder, plan, requests, dtype, options, Budget(begun, share * options.seconds)):
            if run:
                least[level] = floors.of(run.works, level.beams)
            report.add({**asdict(level), **row}, least.get(level))
        if "transformers" in options.against:
            for level, row in _theirs(folder, plan, requests, dtypes, options, Budget(begun, options.seconds)):
                report.add({**asdict(level), **row}, least.get(level))
    print(f"{time.monotonic() - begun:.0f} s")
    report.finish()
    if any(row["side"] == "ours" and row["status"].startswith("failed") for row in report.rows):
        raise SystemExit(1)


def _driver(device: str) -> dict[str, Any]:
    """Driver, power limit and clocks, where nvidia-smi is installed."""
    if device != "cuda" or shutil.which("nvidia-smi") is None:
        return {}
    asked = "driver_version,power.limit,clocks.max.sm,clocks.max.mem"
    command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
    return {asked: subprocess.run(command, capture_output=True, text=True).stdout.strip()}


def _ours(
    folder: Path, plan: list[Level], requests: Requests, dtype: str, options: argparse.Namespace, budget: Budget
) -> Iterator[tuple[Level, dict[str, Any], Run | None]]:
    settings = EngineConfig(max_num_seqs=options.max_num_seqs) if options.max_num_seqs else EngineConfig()
    tasks = list(dict.fromkeys(level.task for level in plan))
    seconds, side = timed(lambda: Ours(folder, tasks, options.device, dtype, settings), options.device)
    print(f"our engine, loaded and its steps recorded: {seconds:.1f} s", flush=True)
    for level in plan:
        row: dict[str, Any] = {"side": "ours", "dtype": dtype, "batch": None}
        if budget.left() < 0:
            yield level, {**row, "status": "not reached"}, None
            continue
        work = requests.of(level)
        answer = partial(side.run, level.task, work, level.beams)
        try:
            answer()  # compiles and records what this level is the first to need
            with _peak_memory(options.device, row):
                stages, _ = side.clock.of(answer)
                runs = list(_repeated(answer, options.repeats))
        except Exception as error:
            yield level, {**row, "status": f"failed: {first_line(error)}"}, None
            continue
        yield level, {**row, **_measured(level, work, runs, stages)}, runs[-1]


def _theirs(
    folder: Path, plan: list[Level], requests: Requests, dtypes: list[str], options: argparse.Namespace, budget: Budget
) -> Iterator[tuple[Level, dict[str, Any]]]:
    bench = _TheirBench(folder, requests, [level.at_once for level in plan], options, budget)
    # A model is loaded for the levels of one task that stand together.
    groups: dict[tuple[str, str, int], list[Level]] = {}
    for level in plan:
        groups.setdefault((level.task, level.lengths, level.beams), []).append(level)
    for group in groups.values():
        for dtype in dtypes:
            for level in group:
                row = {"side": "transformers", "dtype": dtype, "batch": None}
                try:
                    yield level, row | bench.measure(level, dtype)
                except Exception as error:
                    yield level, row | {"status": f"failed: {first_line(error)}"}


class _TheirBench:
    """transformers, one model at a time."""

    def __init__(
        self, folder: Path, requests: Requests, at_once: list[int], options: argparse.Namespace, budget: Budget
    ) -> None:
        self.folder = folder
        self.requests = requests
        self.sizes = sorted({*at_once, *(size for size in BATCHES if size < max(at_once))})
        self.options = options
        self.budget = budget
        self.side: Theirs | None = None
        self.loaded: tuple[str, str] | None = None
        self.swept: dict[tuple[str, str, int], dict[int, float]] = {}
        self.warm: set[int] = set()  # batch sizes that the model has seen, with the beams at hand

    def measure(self, level: Level, dtype: str) -> dict[str, Any]:
        if self.budget.left() < 0:
            return {"status": "not reached"}
        side = self._load(level.task, dtype)
        sizes = self._best_sizes(side, level)
        work = self.requests.of(level)
        for size, seconds in sizes.items():
            if seconds * len(work) > self.budget.left():
                return {"status": "not reached"}
            row: dict[str, Any] = {"batch": size, "attention": side.attention}
            _release()
            try:
                if size not in self.warm:
                    side.run(work[:size], level.beams, size)
                    self.warm.add(size)
                with _peak_memory(self.options.device, row):
                    answer = partial(side.clock.of, partial(side.run, work, level.beams, size))
                    found = list(_repeated(answer, self.options.repeats))
            except RuntimeError as reason:  # this one has longer requests than the sweep had
                print(f"no batches of {size}: {first_line(reason)}", flush=True)
                continue
            runs = [run for _, run in found]
            stages = {stage: statistics.median(each.get(stage, 0.0) for each, _ in found) for stage in STAGES}
            return row | _measured(level, work, runs, stages)
        return {"status": "failed: no batch size could be run, its lines above say why"}

    def _load(self, task: str, dtype: str) -> Theirs:
        if self.side is None or self.loaded != (task, dtype):
            self.side, self.loaded = None, None
            _release()
            self.side, self.loaded = Theirs(self.folder, task, self.options.device, dtype), (task, dtype)
            self.warm = set()
        return self.side

    def _best_sizes(self, side: Theirs, level: Level) -> dict[int, float]:
        """Batch sizes for a level, the fastest first, with seconds a request. One dtype is swept; others take part."""
        key = level.task, level.lengths, level.beams
        if key not in self.swept:
            everyone = by_length(self.requests.of(replace(level, at_once=self.sizes[-1])))

            def seconds_of(size: int) -> float:
                _release()
                first = (len(everyone) - size) // 2  # neighbours in length, from the middle
                run = side.run(everyone[first : first + size], level.beams, size)
                print(f"sweep  {level.task} {level.lengths} beams={level.beams}  {size}: {run.wall:.2f} s", flush=True)
                self.warm.add(size)
                return run.wall

            self.warm = set()
            side.run(everyone[-1:], level.beams, 1)
            self.swept[key] = sweep(seconds_of, self.sizes, self.budget.left)
        fits = {size: s for size, s in self.swept[key].items() if size <= level.at_once and math.isfinite(s)}
        return dict(sorted(fits.items(), key=lambda pair: pair[1]))


def _repeated(call: Callable[[], Any], repeats: int) -> Iterator[Any]:
    begun = time.monotonic()
    for i in range(repeats):
        if i and time.monotonic() - begun > _ENOUGH:
            return
        yield call()


def _measured(level: Level, work: list[Item], runs: list[Run], stages: dict[str, float]) -> dict[str, Any]:
    wall = statistics.median(run.wall for run in runs)
    audio_in = sum(len(item.waveform) for item in work if item.waveform is not None) / RATE
    latencies = sorted(seconds for run in runs for seconds in run.latencies)
    return {
        "status": "measured",
        "runs": len(runs),
        "wall_s": wall,
        "rtfx": audio_in / wall if audio_in else None,
        "tokens_s": sum(item.new_tokens for item in work) / wall,
        "p50_s": _quantile(latencies, 0.5),
        "p95_s": _quantile(latencies, 0.95),
        "audio_in_s": audio_in,
        "audio_out_s": runs[-1].audio_out,
        "stages_s": {stage: stages.get(stage, 0.0) for stage in STAGES},
    }


def _quantile(ordered: list[float], q: float) -> float:
    return ordered[math.ceil(q * len(ordered)) - 1]


@contextmanager
def _peak_memory(device: str, row: dict[str, Any]) -> Iterator[None]:
    """Notes the most memory, in GiB, that the process holds of a GPU meanwhile, weights and pools included."""
    _release()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    yield
    row["peak_gib"] = torch.cuda.max_memory_reserved() / 2**30 if device == "cuda" else None


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
