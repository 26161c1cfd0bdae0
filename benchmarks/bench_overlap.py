"""Passes beside the decode steps or in turn with them (`EngineConfig.overlap`), in one run.

    python -m benchmarks.bench_overlap [--device cuda] [--task s2st] [--quick]

The ragged trace, on random weights in the dims of v2-large. Its requests come one by one at each of --rates a second, 0
for all at once. Both engines answer each rate in turns, --repeats times: the median of the wall time, and of the median
and 95th percentile of latency, which counts from when a request comes.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from benchmarks.common import machine, print_table, write_json
from benchmarks.workload import TASKS, TINY, Item, endless_checkpoint, fast_folder, ragged_items
from seamless_engine import AsyncEngine, Engine, EngineConfig
from seamless_engine.block_manager import BLOCK_SIZE

NAMES = {False: "in turn", True: "beside"}


async def answer(engine: Engine, task: str, work: list[Item], rate: float) -> tuple[float, list[float]]:
    """Seconds until all is answered, and the latency of each."""
    latencies: list[float] = []
    begun = time.perf_counter()

    async def one(shared: AsyncEngine, place: int, item: Item) -> None:
        due = begun + (place / rate if rate else 0.0)
        await asyncio.sleep(due - time.perf_counter())
        result = await (await shared.submit(item.request(task, 1, may_end=False)))
        if result.error:
            raise SystemExit(f"request {place} failed: {result.error}")
        latencies.append(time.perf_counter() - due)

    async with AsyncEngine(engine) as shared:
        await asyncio.gather(*(one(shared, place, item) for place, item in enumerate(work)))
    return time.perf_counter() - begun, latencies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--task", choices=TASKS, default="s2st")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0, 20.0, 80.0], help="requests a second")
    parser.add_argument("--count", type=int, default=128, help="requests")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--checkpoint", type=Path, help="folder to keep the random checkpoint in between runs")
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/overlap-DEVICE.json")
    parser.add_argument("--quick", action="store_true", help="tiny dims and few requests, to try the benchmark itself")
    options = parser.parse_args()
    count, repeats = (6, 1) if options.quick else (options.count, options.repeats)
    with tempfile.TemporaryDirectory(dir=fast_folder()) as scratch:
        folder = endless_checkpoint(options.checkpoint or Path(scratch), TINY if options.quick else {}, options.device)
        engines: dict[bool, Engine] = {}
        for beside in NAMES:
            # as many slots for the second as for the first, which found more memory free
            slots = engines[False]._runner.blocks.num_blocks * BLOCK_SIZE if engines else None
            settings = EngineConfig(overlap=beside, num_slots=slots)
            engines[beside] = Engine.from_pretrained(
                folder, tasks=[options.task], device=options.device, options=settings
            )
    work = ragged_items(options.task, engines[False].config)[:count]
    walls: dict[tuple[float, bool], list[float]] = defaultdict(list)
    times: dict[tuple[float, bool], list[list[float]]] = defaultdict(list)
    for rate in options.rates:
        for repeat in range(repeats + 1):  # the first compiles and records
            for beside, engine in engines.items():
                wall, latencies = asyncio.run(answer(engine, options.task, work, rate))
                if repeat:
                    walls[rate, beside].append(wall)
                    times[rate, beside].append(latencies)
    rows = []
    for (rate, beside), found in walls.items():
        median, late = (
            statistics.median(float(np.percentile(each, q)) for each in times[rate, beside]) for q in (50, 95)
        )
        wall = statistics.median(found)
        rows.append({"rate": rate, "passes": NAMES[beside], "wall_s": wall, "p50_s": median, "p95_s": late})
    facts = machine(options.device)
    print("  ".join(f"{key}={value}" for key, value in facts.items()))
    print_table(list(rows[0]), [list(row.values()) for row in rows])
    content = {"machine": facts, "task": options.task, "count": count, "rows": rows}
    write_json(options.json or Path(f"benchmarks/results/overlap-{options.device}.json"), content)


if __name__ == "__main__":
    main()
