"""Who answers in bench_load: the engine, and one of transformers' dedicated classes; with times by stage."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.floors import Work
from benchmarks.stage_clock import StageClock
from benchmarks.workload import RATE, Item
from seamless_engine import Engine, Result, model_runner
from seamless_engine.config import EngineConfig, ModelConfig
from seamless_kernels.fbank import frame_count

STAGES = ("front end", "encode", "decode", "t2u", "vocoder", "other")


@dataclass(frozen=True)
class Run:
    """All requests of a level, answered once.

    wall: seconds. latencies: of each request, from the start of all to its result. works: what each one was.
    """

    wall: float
    latencies: list[float]
    audio_out: float
    works: list[Work]


class Ours:
    """One engine for all tasks, on a checkpoint whose texts never end by themselves."""

    def __init__(self, folder: Path, tasks: list[str], device: str, dtype: str, options: EngineConfig) -> None:
        self.engine = Engine.from_pretrained(folder, tasks=tasks, device=device, dtype=dtype, options=options)
        self.clock = StageClock(device, rest="other")
        runner, clock = self.engine._runner, self.clock
        clock.watch(self.engine._preprocessor, "prepare", "front end")
        clock.watch(model_runner, "fbank", "front end")
        clock.watch(runner, "encode", "encode")
        clock.watch(runner, "decode", "decode")
        clock.watch(runner, "finish", "decode")
        if runner.synthesizer is not None:
            clock.watch(runner.synthesizer, "run_t2u", "t2u")
            clock.watch(runner.synthesizer, "unit_ids", "t2u")
            clock.watch(runner.synthesizer.vocoder, "clips", "vocoder")
            runner.synthesizer.vocoder = clock.proxy(runner.synthesizer.vocoder, "vocoder")

    def run(self, task: str, work: list[Item], num_beams: int) -> Run:
        """Raises ValueError if a request fails or ends early."""
        requests = [item.request(task, num_beams, may_end=False) for item in work]
        for i, request in enumerate(requests):
            request.id = i
        latencies, results = [], {}
        begun = time.perf_counter()
        for result in self.engine.stream(requests):
            latencies.append(time.perf_counter() - begun)
            results[result.id] = result
        wall = time.perf_counter() - begun
        works = [_work_of(item, results[i], self.engine.config) for i, item in enumerate(work)]
        audio = sum(len(result.audio) for result in results.values() if result.audio is not None)
        return Run(wall, latencies, audio / RATE, works)


def _work_of(item: Item, result: Result, config: ModelConfig) -> Work:
    if result.error:
        raise ValueError(f"a request failed: {result.error}")
    if len(result.tokens) != item.new_tokens:
        raise ValueError(f"a text has {len(result.tokens)} tokens, not the {item.new_tokens} that were asked for")
    units = 0 if result.units is None else len(result.units)
    samples = 0 if result.audio is None else len(result.audio)
    frames = 0 if item.waveform is None else frame_count(len(item.waveform)) // 2
    return Work(frames, len(item.ids or ()), item.new_tokens, units, samples // config.samples_per_frame)


class Theirs:
    """sdpa attention, requests in batches of similar length, the longest first."""

    def __init__(self, folder: Path, task: str, device: str, dtype: str) -> None:
        from benchmarks.baseline import Transformers

        self.side = Transformers(folder, task, device, getattr(torch, dtype))
        self.clock = StageClock(device, rest="other")
        model: Any = self.side.model
        self.attention: str = model.config._attn_implementation
        self.clock.watch(self.side, "_inputs", "front end")
        self.clock.watch(model, "generate", "decode")  # what the stages inside leave of it
        self.clock.watch(model.speech_encoder if task.startswith("s2") else model.text_encoder, "forward", "encode")
        if self.side.speaks:
            self.clock.watch(model.t2u_model, "forward", "t2u")
            self.clock.watch(model.vocoder, "forward", "vocoder")

    def run(self, work: list[Item], num_beams: int, batch: int) -> Run:
        """Raises ValueError if a text ends early, RuntimeError for a batch that is too large."""
        latencies, audio, ordered = [], 0.0, by_length(work)
        begun = time.perf_counter()
        for start in range(0, len(work), batch):
            group = ordered[start : start + batch]
            tokens, seconds = self.side.generate(group, num_beams)
            audio += seconds
            latencies += [time.perf_counter() - begun] * len(group)
            if any(len(row) != item.new_tokens for row, item in zip(tokens, group, strict=False)):
                raise ValueError("a text of transformers has not the length that was asked for")
        return Run(time.perf_counter() - begun, latencies, audio, [])


def by_length(work: list[Item]) -> list[Item]:
    """The longest source first."""
    return sorted(work, key=_source_length, reverse=True)


def _source_length(item: Item) -> int:
    return len(item.waveform) if item.waveform is not None else len(item.ids or ())


def sweep(seconds_of: Callable[[int], float], sizes: list[int], seconds_left: Callable[[], float]) -> dict[int, float]:
    """Seconds a request takes in a batch of each size, infinite where the memory does not hold it.

    seconds_of: runs one batch of a size. The sweep ends with a size that cannot be run or is a tenth slower than the
    best one, and, after the first, before one for which the time would not last.
    """
    found: dict[int, float] = {}
    for size in sizes:
        if found and min(found.values()) * size > seconds_left():
            break
        try:
            found[size] = seconds_of(size) / size
        except RuntimeError as reason:  # out of memory, or a kernel that cannot count so far
            print(f"sweep  no batch of {size}: {first_line(reason)}", flush=True)
            found[size] = float("inf")
            break
        if found[size] > 1.1 * min(found.values()):
            break
    return found


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [repr(error)])[0]
