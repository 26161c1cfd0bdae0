"""The host's share of a decode step, with a fake device: nothing of the model is computed.

    python -m benchmarks.bench_scheduler

Core, scheduler, batches, flags and buffers are the engine's own. The fake step only counts positions and ends every
request at the length that the ragged trace forces; its time, and that of the fake encoder, is taken out. A request that
leaves is followed by a waiting one, so that the rows stay full: the steady state of a server under load. Every run
takes the same steps, so each step counts with the least time of --repeats runs: what others do on the machine is no
part of it.

Writes the table and, over the steps of the 64 requests of the trace in 80 rows, how many rows and blocks work: with
continuous batching, and with batches of 16 requests that each wait for their longest.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import ragged
from benchmarks.common import machine, print_table, write_json
from seamless_engine import DecodingParams, Request, Result
from seamless_engine.block_manager import BLOCK_SIZE, PROMPT_LENGTH, BlockManager, blocks_needed
from seamless_engine.config import EngineConfig, ModelConfig
from seamless_engine.core import Core
from seamless_engine.job import Job
from seamless_engine.model_inputs import Tokens
from seamless_engine.model_runner import ModelRunner
from seamless_engine.search.completion_queue import CompletionQueue
from seamless_engine.search.schema import IntParam, Status
from seamless_engine.search.state import SearchState
from seamless_engine.search.step_batch import BatchBuilder, StepBatch

BEAMS = 5
WARM_UP = 100
MAX_LENGTH = PROMPT_LENGTH + 256


class FakeRunner(ModelRunner):
    """A model runner without a model. Its decode, flags and finished are the real ones."""

    def __init__(self, rows: int, blocks: int) -> None:
        self.config = ModelConfig()
        self.device = torch.device("cpu")
        self.blocks = BlockManager(blocks, rows)
        self.buffers = SearchState(
            rows,
            blocks * BLOCK_SIZE,
            max_length=MAX_LENGTH,
            max_source=256,
            max_bad_word_tokens=16,
            eos=self.config.eos_token_id,
            like=torch.zeros(1, 8),
        )
        self.batches, self.completions, self.step = (
            BatchBuilder(rows, MAX_LENGTH, self.device),
            CompletionQueue(0),
            self._step,
        )

    def encode(self, admitted: list[tuple[Job, list[int]]]) -> None:
        self.buffers.admit(admitted)

    def _step(self, batch: StepBatch) -> torch.Tensor:
        """Everybody reads on, and who is at its limit has finished hypotheses."""
        b = self.buffers
        search, position = batch.search_id.numpy(), b.position.numpy()
        position[search] += np.where(position[search] == 0, PROMPT_LENGTH, 1)
        over = position[search] + 1 >= b.int_params.numpy()[search, IntParam.MAX_LENGTH]
        b.status.numpy()[search] = np.where(over, int(Status.OVER), int(Status.SEARCHING))
        rows = b.beam_ids.numpy()[search[over], :BEAMS].ravel()
        b.finished_occupied.numpy()[rows] = True
        b.finished_length.numpy()[rows] = np.repeat(position[search[over]], BEAMS)
        return b.status[batch.search_id]


class _NoTokenizer:
    def decode(self, tokens: list[int]) -> str:
        return ""


class Clock:
    """Time by part, of the step that is going on. A part inside another is not counted in it."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._inside = [0.0]

    def time(self, owner: Any, name: str, part: str) -> None:
        setattr(owner, name, self._timed(getattr(owner, name), part))

    def _timed(self, call: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            begun = time.perf_counter()
            self._inside.append(0.0)
            try:
                return call(*args, **options)
            finally:
                taken = time.perf_counter() - begun
                self.spent[part] += taken - self._inside.pop()
                self._inside[-1] += taken

        return timed


_PARTS = {
    "scheduler": ("leaving", "admit", "retire", "next_speech", "drop", "submit"),
    "batch": ("batch",),
    "flags": ("push", "pop"),
    "admission": ("admit",),
    "results": ("finish",),
    "device": ("step",),
}


def measure(requests: int, steps: int, repeats: int) -> dict[str, Any]:
    """Host time of each of `steps` steps with so many requests of 5 beams: a row of the table, in milliseconds."""
    runs = [_run(requests, steps) for _ in range(repeats)]
    least = {part: np.min([taken[part] for taken, _ in runs], axis=0) for part in runs[0][0]}
    return {
        "requests": requests,
        "rows": requests * BEAMS,
        "rows_busy": round(runs[0][1] / (requests * BEAMS), 3),
        **{part: _quantiles(least[part]) for part in ("host", *_PARTS, "bookkeeping") if part != "device"},
    }


def _run(requests: int, steps: int) -> tuple[dict[str, list[float]], float]:
    """Milliseconds of each step by part, and the mean of busy rows. Every run takes the same steps."""
    jobs = _jobs(itertools.cycle(_lengths()))
    runner = FakeRunner(requests * BEAMS, requests * (blocks_needed(30, BEAMS, 48) + 4))
    loop = Core(runner, _NoTokenizer(), EngineConfig())  # pyright: ignore[reportArgumentType]
    clock = Clock()
    owners = {
        "scheduler": loop.scheduler,
        "batch": runner.batches,
        "flags": runner.completions,
        "admission": runner.state,
    }
    for part, names in _PARTS.items():
        for name in names:
            clock.time(owners.get(part, runner), name, part)
    taken: dict[str, list[float]] = defaultdict(list)
    busy: list[int] = []
    for step in range(WARM_UP + steps):
        while len(loop.scheduler.waiting) < requests // 4 + 4:
            loop.submit(next(jobs))
        clock.spent.clear()
        begun = time.perf_counter()
        loop.step()
        total = time.perf_counter() - begun
        if step < WARM_UP:
            continue
        clock.spent["bookkeeping"] = total - sum(clock.spent.values())
        clock.spent["host"] = total - clock.spent["device"]
        for part in ("host", "bookkeeping", *_PARTS):
            taken[part].append(1e3 * clock.spent[part])
        busy.append(sum(job.num_seqs for job in loop.scheduler.decoding))
    return taken, statistics.mean(busy)


def _quantiles(values: np.ndarray) -> dict[str, float]:
    return {
        "mean": round(float(np.mean(values)), 3),
        "median": round(float(np.median(values)), 3),
        "p99": round(float(np.quantile(values, 0.99)), 3),
    }


def _lengths() -> list[tuple[int, int]]:
    return [(line["source_tokens"], line["new_tokens"]) for line in ragged.load()["sentences"]]


def _jobs(lengths: Any) -> Any:
    for source, new_tokens in lengths:
        params = DecodingParams(num_beams=BEAMS, max_new_tokens=new_tokens, min_new_tokens=new_tokens)
        request = Request("t2tt", "fra", text=Tokens([5] * source), params=params)
        yield Job(
            request=request,
            params=params,
            result=Result(0, "t2tt", "fra"),
            source=None,
            num_tokens=source,
            encoder_length=source,
            max_new_tokens=new_tokens,
            language_id=5,
            voice=None,
            started=time.perf_counter(),
        )


def occupancy(rows: int, blocks: int) -> dict[str, list[int]]:
    """Of every step of the trace: rows that search, blocks that are held, blocks that have been written to."""
    runner = FakeRunner(rows, blocks)
    loop = Core(runner, _NoTokenizer(), EngineConfig())  # pyright: ignore[reportArgumentType]
    for job in _jobs(_lengths()):
        loop.submit(job)
    seen: dict[str, list[int]] = {"rows": [], "held": [], "written": []}
    real_decode = runner.decode

    def decode(jobs: list[Job]) -> Any:
        seen["rows"].append(sum(job.num_seqs for job in jobs))
        seen["held"].append(blocks - runner.blocks.free_blocks)
        seen["written"].append(
            sum(blocks_needed(job.encoder_length, job.num_seqs, max(job.position - PROMPT_LENGTH, 0)) for job in jobs)
        )
        return real_decode(jobs)

    runner.decode = decode
    while loop.busy:
        loop.step()
    return seen


def static_batches(rows: int) -> list[int]:
    """Rows that still search in every step of batches of rows / BEAMS requests, sorted by source length."""
    size = rows // BEAMS
    lengths = [new for _, new in sorted(_lengths(), reverse=True)]
    busy: list[int] = []
    for start in range(0, len(lengths), size):
        batch = lengths[start : start + size]
        busy += [BEAMS * sum(length > step for length in batch) for step in range(max(batch))]
    return busy


def plot(path: Path, rows: int, blocks: int) -> dict[str, Any]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ours, static = occupancy(rows, blocks), static_batches(rows)
    figure, (above, below) = plt.subplots(2, 1, figsize=(9, 6), sharex=True, constrained_layout=True)
    above.fill_between(range(len(static)), static, step="post", alpha=0.35, label="batches of 16, sorted by source")
    above.step(range(len(ours["rows"])), ours["rows"], where="post", label="continuous")
    above.set(ylabel=f"rows that search, of {rows}", ylim=(0, rows * 1.05))
    below.step(range(len(ours["held"])), ours["held"], where="post", label="held (worst case)")
    below.step(range(len(ours["written"])), ours["written"], where="post", label="written to")
    below.set(xlabel="decode step", ylabel=f"blocks of 16 slots, of {blocks}", ylim=(0, blocks * 1.05))
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    above.set_title("64 requests of the ragged trace, 5 beams", loc="left", fontsize="medium")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"written: {path}")
    return {
        "steps_continuous": len(ours["rows"]),
        "steps_static": len(static),
        "rows_busy_continuous": round(sum(ours["rows"]) / rows / len(ours["rows"]), 3),
        "rows_busy_static": round(sum(static) / rows / len(static), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(requests, options.steps, options.repeats) for requests in options.requests]
    columns = list(rows[0])
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    print("Host time of a step in milliseconds: mean / median / p99")
    print_table(columns, cells)
    summary = plot(options.out / "occupancy.png", rows=80, blocks=640)
    print("  ".join(f"{key}={value}" for key, value in summary.items()))
    facts = machine("cpu")
    write_json(options.out / "scheduler.json", {"machine": facts, "host": rows, "occupancy": summary})


def _cell(value: Any) -> str:
    return " / ".join(map(str, value.values())) if isinstance(value, dict) else str(value)


if __name__ == "__main__":
    main()
