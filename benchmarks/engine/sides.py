"""The sides of a comparison: our engine here, transformers and CTranslate2 in their files."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.clock import StageClock
from benchmarks.engine.workload import Item
from seamless_engine import Engine, EngineConfig, model_runner

STAGES = ("front end", "encode", "decode", "t2u", "vocoder", "other")
_THREADS = torch.get_num_threads()


class Answer(NamedTuple):
    """seconds: from the start until this request has its result. tokens: None where a side does not return them."""

    seconds: float
    tokens: list[int] | None
    samples: int = 0
    units: int = 0


@dataclass(frozen=True)
class Run:
    """Requests answered once: seconds of wall and of processor time, and the answers in order."""

    wall: float
    cpu: float
    answers: list[Answer]


class Side:
    """settings: what `answer` may be given, small batches before large ones. clock: times its stages.

    pipelined: the host runs ahead of the device, which timing by stage prevents.
    """

    pipelined = False

    def __init__(self, device: str, settings: Sequence[dict[str, Any]] = ({},)) -> None:
        self.settings = list(settings)
        self.clock = StageClock(device, rest="other")

    def answer(self, task: str, work: list[Item], num_beams: int, **setting: Any) -> list[Answer]:
        raise NotImplementedError

    def greedy(self, task: str, work: list[Item]) -> list[list[int]] | None:
        """Tokens by greedy search; None where a side is not meant to compute the same."""
        return [self.answer(task, [item], 1, **self.settings[0])[0].tokens or [] for item in work]

    def close(self) -> None:
        """Free the model."""

    def run(self, task: str, work: list[Item], num_beams: int, **setting: Any) -> Run:
        """Raises ValueError if an output has not the length that was forced."""
        torch.set_num_threads(_THREADS)  # CTranslate2 sets OpenMP's number, which is torch's too
        wall, cpu = time.perf_counter(), time.process_time()
        answers = self.answer(task, work, num_beams, **setting)
        run = Run(time.perf_counter() - wall, time.process_time() - cpu, answers)
        for item, answer in zip(work, answers, strict=True):
            if answer.tokens is not None and len(answer.tokens) != item.new_tokens:
                raise ValueError(f"a text has {len(answer.tokens)} tokens, not the {item.new_tokens} that were forced")
        return run


class Ours(Side):
    """may_end: whether texts of the checkpoint could end by themselves."""

    def __init__(
        self, folder: Path, tasks: Sequence[str], device: str, dtype: str, options: EngineConfig, may_end: bool
    ) -> None:
        super().__init__(device)
        self.engine = Engine.from_pretrained(folder, tasks=tasks, device=device, dtype=dtype, options=options)
        self.may_end, self.pipelined = may_end, device == "cuda"
        runner = self.engine.core.runner
        self.clock.watch(model_runner, "fbank", "front end")
        # Of a synthesis pass, t2u is what the vocoder leaves.
        for name, stage in {"encode": "encode", "decode": "decode", "finish": "decode", "synthesize": "t2u"}.items():
            self.clock.watch(runner, name, stage)
        if runner.vocoder is not None:
            self.clock.watch(runner.vocoder, "clips", "vocoder")
            self.clock.watch(type(runner.vocoder), "__call__", "vocoder")

    def answer(self, task: str, work: list[Item], num_beams: int) -> list[Answer]:
        """Raises ValueError if a request fails."""
        answers = []
        for result in self.engine.generate([item.request(task, num_beams, self.may_end) for item in work]):
            if result.error is not None:
                raise ValueError(f"a request failed: {result.error}")
            samples, units = (0 if made is None else len(made) for made in (result.audio, result.units))
            answers.append(Answer(result.timings["total"], result.tokens, samples, units))
        return answers

    def greedy(self, task: str, work: list[Item]) -> list[list[int]] | None:
        return None if self.engine.options.int8 else super().greedy(task, work)

    def close(self) -> None:
        self.engine.close()


def by_length(work: list[Item]) -> list[Item]:
    """The longest source first."""
    return sorted(work, key=lambda item: -item.source_length)


def print_agreement(sides: dict[str, Side], task: str, work: list[Item]) -> None:
    """Whether the sides compute the same model: their first 24 greedy tokens."""
    few = [replace(item, new_tokens=24) for item in work[:8]]
    found = {name: tokens for name, side in sides.items() if (tokens := side.greedy(task, few)) is not None}
    ours = found.pop("ours")
    for name, tokens in found.items():
        equal = sum(a == b for a, b in zip(ours, tokens, strict=True))
        print(f"greedy, first 24 tokens: {name} equals ours in {equal} of {len(few)} requests", flush=True)


def sweep(
    seconds_of: Callable[[Any], float], settings: Sequence[Any], left: Callable[[], float], size: Callable[[Any], int]
) -> list[Any]:
    """Settings that can be run, the least seconds a request first.

    seconds_of: runs `size(setting)` requests. The sweep ends with a setting that cannot be run or is a tenth slower
    than the best one, and, after the first, before one that the seconds `left` are not enough for.
    """
    found: list[tuple[float, int]] = []
    for i, setting in enumerate(settings):
        best = min(found)[0] if found else math.inf
        if found and best * size(setting) > left():
            break
        try:
            found.append((seconds_of(setting) / size(setting), i))
        except RuntimeError as error:  # out of memory, or a kernel that cannot count so far
            print(f"sweep  not with {setting}: {first_line(error)}", flush=True)
            break
        if found[-1][0] > 1.1 * best:
            break
    return [settings[i] for _, i in sorted(found)]


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [repr(error)])[0]
