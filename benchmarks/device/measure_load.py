"""The engine with the dims of v2-large: where its passes spend their time, and requests under load."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch

from benchmarks import roofline
from benchmarks.device.parts import Context
from benchmarks.engine.floors import Floors
from benchmarks.engine.load import Level, LoadGenerator, release
from benchmarks.engine.sides import STAGES, Ours, Side
from benchmarks.engine.workload import TINY, random_checkpoint
from benchmarks.report import print_table
from seamless_engine import EngineConfig
from seamless_engine.config import ModelConfig
from tools.profile_step import profiles, show

ENGINE = EngineConfig(max_num_seqs=1280)  # 256 requests with 5 beams
_MANY, _BEST = 256, 64  # requests at once; and about as many as transformers answers best in one batch
_BATCHES = (1, 8, 32, _BEST)  # of transformers
_TOP = 22  # lines of a profile


def engine(context: Context) -> str:
    """Profiles and levels, in turns what says most. The checkpoint is left for transformers."""
    device, dtype, many = context.device, _dtypes(context)[0], 2 if context.quick else _MANY
    folder = random_checkpoint(_checkpoint(context), TINY if context.quick else {}, device, endless=True)
    ceilings = roofline.measure(torch.device(device), getattr(torch, dtype))
    release()  # the engine sizes its pool by the memory that is free
    context.save(ceilings={"copy_gbps": ceilings.bandwidth / 1e9, "matmul_tflops": ceilings.matmul / 1e12})
    side = Ours(folder, ["s2st", "s2tt"], device, dtype, ENGINE, may_end=False)
    floors = Floors(ModelConfig.from_folder(folder), ceilings, getattr(torch, dtype).itemsize)
    found: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    failed: list[str] = []
    context.save(dtype=dtype, memory=side.engine.memory())
    for requests in (1,) if context.quick else (1, many):
        try:
            for profile in profiles(side.engine, requests, 5):
                show(profile, _TOP)
                found.append(profile | {"rows": profile["rows"][: 2 * _TOP]})
        except Exception as error:
            failed.append(f"profiles of {requests}: {error}")
        context.save(profiles=found, failed=failed)
        rows += _measure(context, {"ours": side}, [Level("s2st", "fixed", 5, requests)], floors, rows)
    others = [("s2st", 1, many), ("s2tt", 5, 1), ("s2tt", 5, many), ("s2st", 1, 1), ("s2st", 5, min(many, _BEST))]
    levels = [Level(task, "fixed", beams, count) for task, beams, count in others]
    rows += _measure(context, {"ours": side}, levels[: 1 if context.quick else None], floors, rows)
    return _summary(rows, failed)


def transformers(context: Context) -> str:
    """The same work by transformers: as many requests as it answers best in one batch, and one."""
    from benchmarks.engine.transformers_side import Transformers

    folder, rows = _checkpoint(context), []
    floors = Floors(ModelConfig.from_folder(folder), roofline.Ceilings(math.inf, math.inf), 2)
    levels = [Level("s2st", "fixed", 5, count) for count in ((2, 1) if context.quick else (_BEST, 1))]
    for dtype in _dtypes(context):
        side = Transformers(folder, "s2st", context.device, dtype, _BATCHES)
        rows += _measure(context, {f"transformers {dtype}": side}, levels, floors, rows)
        side.close()
        release()
    return _summary(rows, [])


def _dtypes(context: Context) -> tuple[str, ...]:
    return ("bfloat16", "float16") if context.device == "cuda" else ("float32",)


def _checkpoint(context: Context) -> Path:
    return Path(context.scratch, "checkpoint")


def _measure(
    context: Context, sides: dict[str, Side], levels: list[Level], floors: Floors, before: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Rows of the levels, which are saved behind those before them as they come."""
    options = argparse.Namespace(device=context.device, quick=context.quick, repeats=3, enough=10.0)
    options.at_once = [level.at_once for level in levels]
    generator, rows = LoadGenerator(floors.config, floors, options), []
    for level in levels:
        rows += generator.measure(sides, level)
        context.save(levels=[*before, *rows])
    return rows


def _summary(rows: list[dict[str, Any]], failed: list[str]) -> str:
    """Prints milliseconds by stage, and their floors. Raises AssertionError if anything failed."""
    lines = []
    for row in rows:
        kind = [*(row[name] for name in Level._fields), row["side"]]
        if row["status"] != "measured":
            failed.append(f"{' '.join(map(str, kind))}: {row['status']}")
            continue
        wall = [1e3 * row["wall_s"], row.get("share")]
        lines.append([*kind, *(1e3 * row["stages_s"].get(stage, 0.0) for stage in STAGES), *wall])
        if "floor_s" in row:
            least = row["floor_s"]
            lines.append([*kind[:-1], "floor", *(1e3 * least.get(name, 0.0) for name in STAGES)])
            lines[-1] += [1e3 * sum(least.values()), None]
    print_table((*Level._fields, "side", *STAGES, "all ms", "of floor"), lines)
    assert not failed, "; ".join(failed)
    few = [row for row in rows if row["task"] == "s2st" and row["beams"] == 5]
    return ", ".join(f"s2st {row['at_once']} × {row['beams']}: {1e3 * row['wall_s']:.3g} ms" for row in few)
