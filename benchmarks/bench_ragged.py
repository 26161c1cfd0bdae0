"""The ragged trace, all 64 requests at once, against others at their best settings; bench_engine's `--trace ragged`.

Others are swept first: one run of each setting, and the one with the least product of wall and processor time is kept
(of CTranslate2, one for each way of using the threads). Then the sides take turns, --repeats rounds. Wall time is what
a user waits. Processor time, of all threads of the process, is the other number: on a machine that others use too it
moves less. Batches of transformers are sorted by source length, as CTranslate2 sorts its own.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import ragged
from benchmarks.common import machine, print_table, write_json
from benchmarks.sides import Side, shortened, sides
from benchmarks.workload import DIMS, RATE, Item, ragged_items
from seamless_engine.config import ModelConfig

_THREADS = torch.get_num_threads()
_COLUMNS = ("task", "beams", "side", "setting", "tokens_s", "ours_is", "tokens_cpu_s", "ours_is_by_cpu", "wall_s")


def bench_ragged(options: argparse.Namespace, folder: Path) -> None:
    facts = machine(options.device)
    print("  ".join(f"{key}={value}" for key, value in facts.items()))
    rows: list[dict[str, Any]] = []
    for task in options.tasks:
        work = ragged_items(task, ModelConfig.from_folder(folder))
        print(_describe(task, work))
        everyone = list(sides(folder, task, options.against, options, _THREADS))
        notes = _check_greedy(everyone, work)
        print("\n".join(notes), flush=True)
        for beams in options.beams:
            rows += _compare(everyone, task, work, beams, options.repeats)
    print_table(_COLUMNS, [[row[column] for column in _COLUMNS] for row in rows])
    target = options.json or Path(f"benchmarks/results/ragged-{'-'.join(options.tasks)}-{options.device}.json")
    write_json(target, {"machine": facts, "dims": DIMS, "dtype": options.dtype, "rows": rows})


def _describe(task: str, work: list[Item]) -> str:
    source = (
        f"source tokens: {ragged.summary([len(item.ids) for item in work if item.ids])}"
        if task == "t2tt"
        else f"seconds: {ragged.summary([len(item.waveform) / RATE for item in work if item.waveform is not None])}"
    )
    return f"{task}, {len(work)} requests; {source}; new tokens: {ragged.summary([item.new_tokens for item in work])}"


def _check_greedy(everyone: list[Side], work: list[Item]) -> list[str]:
    """Whether all sides compute the same model. Also their warm-up."""
    few = shortened(work[:8])
    ours = everyone[0].greedy(few) if everyone[0].greedy else []
    notes = []
    for side in everyone[1:]:
        if side.greedy is None:
            side.run(few, 1, **side.settings[0])
            continue
        equal = sum(a == b for a, b in zip(ours, side.greedy(few), strict=True))
        notes.append(f"greedy, first {len(ours[0])} tokens: {side.name} equals ours in {equal} of {len(few)} requests")
    return notes


def _compare(everyone: list[Side], task: str, work: list[Item], beams: int, repeats: int) -> list[dict[str, Any]]:
    runners = [(side, setting) for side in everyone for setting in _best(side, work, beams)]
    times: list[list[tuple[float, float]]] = [[] for _ in runners]
    for _ in range(repeats):
        for taken, (side, setting) in zip(times, runners, strict=True):
            taken.append(_spent(side, work, beams, setting))
    wall, cpu = ([statistics.median(pair[kind] for pair in taken) for taken in times] for kind in (0, 1))
    tokens = sum(item.new_tokens for item in work)
    rows = []
    for i, (side, setting) in enumerate(runners):
        rows.append(
            {
                "task": task,
                "beams": beams,
                "side": side.name,
                "setting": " ".join(f"{key}={value}" for key, value in setting.items()) or "-",
                "tokens_s": round(tokens / wall[i], 1),
                "ours_is": round(wall[i] / wall[0], 2),
                "tokens_cpu_s": round(tokens / cpu[i], 1),
                "ours_is_by_cpu": round(cpu[i] / cpu[0], 2),
                "wall_s": " ".join(f"{pair[0]:.1f}" for pair in times[i]),
                "cpu_s": " ".join(f"{pair[1]:.1f}" for pair in times[i]),
            }
        )
        print("  ".join(f"{key}={value}" for key, value in rows[-1].items()), flush=True)
    return rows


def _best(side: Side, work: list[Item], beams: int) -> list[dict[str, Any]]:
    """Of the settings of each number of threads, the one that takes least."""
    if len(side.settings) == 1:
        return side.settings
    best: dict[Any, tuple[float, dict[str, Any]]] = {}
    for setting in side.settings:
        wall, cpu = _spent(side, work, beams, setting)
        print(f"sweep  beams={beams}  {side.name}  {setting}  wall_s={wall:.1f}  cpu_s={cpu:.1f}", flush=True)
        threads = setting.get("threads")
        if threads not in best or wall * cpu < best[threads][0]:
            best[threads] = wall * cpu, setting
    return [setting for _, setting in best.values()]


def _spent(side: Side, work: list[Item], beams: int, setting: dict[str, Any]) -> tuple[float, float]:
    """Seconds of wall and of processor time."""
    torch.set_num_threads(_THREADS)  # CTranslate2 sets OpenMP's number for everybody
    wall, cpu = time.perf_counter(), time.process_time()
    side.run(work, beams, **setting)
    return time.perf_counter() - wall, time.process_time() - cpu
