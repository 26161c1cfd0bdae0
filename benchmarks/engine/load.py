"""The load generator: sides answer the requests of a level in turns, and each gets a row of numbers."""

from __future__ import annotations

import argparse
import ctypes
import gc
import math
import re
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.engine.floors import Floors, Work
from benchmarks.engine.sides import STAGES, Answer, Run, Side, by_length, first_line, sweep
from benchmarks.engine.workload import RATE, Item, items
from seamless_engine.config import ModelConfig
from seamless_engine.models.lengths import packed_frames


class Level(NamedTuple):
    """So many requests of one kind at once."""

    task: str
    lengths: str
    beams: int
    at_once: int


@dataclass
class Measurement:
    """One side at one level."""

    name: str
    side: Side
    setting: dict[str, Any] = field(default_factory=dict)
    status: str = "measured"
    runs: list[Run] = field(default_factory=list)
    stages: list[dict[str, float]] = field(default_factory=list)
    peak_gib: float = 0.0

    def numbers(self, work: list[Item]) -> dict[str, Any]:
        wall = statistics.median(run.wall for run in self.runs)
        audio_in = sum(len(item.waveform) for item in work if item.waveform is not None) / RATE
        latencies = sorted(answer.seconds for run in self.runs for answer in run.answers)
        p50, p95 = (latencies[math.ceil(share * len(latencies)) - 1] for share in (0.5, 0.95))
        return {
            "runs": len(self.runs),
            "wall_s": wall,
            "cpu_s": statistics.median(run.cpu for run in self.runs),
            "rtfx": audio_in / wall if audio_in else None,
            "tokens_s": sum(item.new_tokens for item in work) / wall,
            "p50_s": p50,
            "p95_s": p95,
            "peak_gib": self.peak_gib,
            "audio_in_s": audio_in,
            "audio_out_s": sum(answer.samples for answer in self.runs[-1].answers) / RATE,
            "stages_s": {stage: statistics.median(s.get(stage, 0.0) for s in self.stages) for stage in STAGES},
        }


class LoadGenerator:
    """options: as of the command line. end: when the run has to end."""

    def __init__(self, config: ModelConfig, floors: Floors, options: argparse.Namespace) -> None:
        self.config, self.floors, self.options, self.device = config, floors, options, options.device
        self.end = math.inf
        self._swept: dict[tuple[Any, ...], list[dict[str, Any]]] = {}  # settings, the fastest first
        self._least: dict[Level, dict[str, float]] = {}

    def left(self) -> float:
        return self.end - time.monotonic()

    def work(self, level: Level, count: int | None = None) -> list[Item]:
        scale = 0.25 if self.options.quick else 1.0
        return items(level.task, level.lengths, count or level.at_once, self.config, scale)

    def measure(self, sides: dict[str, Side], level: Level) -> Iterator[dict[str, Any]]:
        """A row of each side. They take turns, so that what else the machine does meets all of them."""
        work, start = self.work(level), time.monotonic()
        measured = [Measurement(name, side) for name, side in sides.items()]
        for _ in range(self.options.repeats):
            for one in measured:
                if one.status == "measured" and (not one.runs or time.monotonic() - start < self.options.enough):
                    try:
                        self._round(one, level, work)
                    except Exception as error:
                        one.status = f"failed: {first_line(error)}"
        for one in measured:
            setting = " ".join(f"{key}={value}" for key, value in one.setting.items())
            row = {**level._asdict(), "side": one.name, "setting": setting, "status": one.status}
            if one.status == "measured":
                row |= one.numbers(work)
                if one.name == "ours":
                    works = [self._work_of(*pair) for pair in zip(work, one.runs[-1].answers, strict=True)]
                    self._least[level] = self.floors.of(works, level.beams)
                if least := self._least.get(level):
                    row |= {"floor_s": least, "share": sum(least.values()) / row["wall_s"]}
            yield row

    def _round(self, one: Measurement, level: Level, work: list[Item]) -> None:
        """The stages of a pipelined side are from a run of their own: to tell them apart takes time."""
        first, before = not one.runs, 0.0
        if first:
            one.setting = self._setting(one, level, by_length(work))
            before = _reset_peak(self.device)
        run = partial(one.side.run, level.task, work, level.beams, **one.setting)
        if first or not one.side.pipelined:
            stages, done = one.side.clock.of(run)
            one.stages.append(stages)
        one.runs.append(run() if one.side.pipelined else done)
        if first:
            one.peak_gib = _peak(self.device) - before

    def _setting(self, one: Measurement, level: Level, order: list[Item]) -> dict[str, Any]:
        """The fastest setting of a side whose warm-up, on a GPU its largest batch, does not fail.

        Levels of any number of requests share a sweep.
        """
        key = one.name, level.task, level.lengths, level.beams
        if key not in self._swept:
            self._swept[key] = self._sweep(one, level) if len(one.side.settings) > 1 else one.side.settings
        for setting in self._swept[key]:
            batch = setting.get("batch", 0)
            if batch > level.at_once:
                continue
            try:
                one.side.run(
                    level.task, order[: batch or None] if self.device == "cuda" else order[-1:], level.beams, **setting
                )
                return setting
            except RuntimeError as error:
                print(f"{one.name}: not with {setting}: {first_line(error)}", flush=True)
        raise ValueError("no setting can be run, the lines above say why")

    def _sweep(self, one: Measurement, level: Level) -> list[dict[str, Any]]:
        order, side = by_length(self.work(level, max(self.options.at_once))), one.side

        def size(setting: dict[str, Any]) -> int:
            return setting.get("batch") or len(order)

        def seconds_of(setting: dict[str, Any]) -> float:
            first = (len(order) - size(setting)) // 2  # neighbours in length, from the middle
            run = side.run(level.task, order[first : first + size(setting)], level.beams, **setting)
            print(f"sweep  {one.name} {level.task} beams={level.beams} {setting}: {run.wall:.2f} s", flush=True)
            # What else a processor does delays a run, but gives it no more processor time.
            return math.sqrt(run.wall * run.cpu) if self.device == "cpu" else run.wall

        side.run(level.task, order[-1:], level.beams, **side.settings[0])
        return sweep(seconds_of, [setting for setting in side.settings if size(setting) <= len(order)], self.left, size)

    def _work_of(self, item: Item, answer: Answer) -> Work:
        frames = 0 if item.waveform is None else packed_frames(len(item.waveform))[1]
        tokens = 0 if frames else item.source_length
        return Work(frames, tokens, item.new_tokens, answer.units, answer.samples // self.config.samples_per_frame)


def _reset_peak(device: str) -> float:
    """The peak of memory starts from here. Returns what is not part of it: on a CPU the GiB that are resident now."""
    release()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return 0.0
    Path("/proc/self/clear_refs").write_text("5")
    return _peak(device)


def _peak(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_reserved() / 2**30
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), flags=re.MULTILINE)
    return int(found[1]) / 2**20 if found else 0.0


def release() -> None:
    """Give memory that is not used back to the system and to the GPU."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
