"""The host's share of a decode step, with a fake device: nothing of the model is computed.

    python -m benchmarks.engine.scheduler

Core, scheduler, batches, completion queue and search state are the engine's own. The fake step only counts positions
and ends every request at the length that the ragged trace forces; its time, and that of the fake encoder, is taken out.
A request that leaves is followed by a waiting one, so that the beams stay full: the steady state of a server under
load. Every run takes the same steps, so each step counts with the least time of --repeats runs: what else the machine
does is no part of it.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.clock import StageClock
from benchmarks.engine.workload import items
from benchmarks.report import RESULTS, machine, print_table, write_json
from seamless_engine import Result
from seamless_engine.block_manager import BLOCK_SIZE, PROMPT_LENGTH, BlockManager, blocks_needed
from seamless_engine.config import EngineConfig, ModelConfig
from seamless_engine.core import Core
from seamless_engine.job import Job
from seamless_engine.model_runner import ModelRunner
from seamless_engine.search.completion_queue import CompletionQueue
from seamless_engine.search.schema import Status
from seamless_engine.search.state import SearchState
from seamless_engine.search.step_batch import BatchBuilder, StepBatch
from seamless_engine.search.torch_search import TorchSearch

BEAMS = 5
WARM_UP = 100  # steps
MAX_LENGTH = PROMPT_LENGTH + 256
PARTS = ("host", "scheduler", "batch", "completions", "admission", "results", "bookkeeping")
_METHODS = ("submit", "leaving", "admit", "retire", "next_synthesis", "drop")  # of a scheduler
_PREPROCESSOR: Any = SimpleNamespace(tokenizer=SimpleNamespace(decode=lambda tokens: ""))


class FakeRunner(ModelRunner):
    """A model runner without a model. Its decode and finish, and what they use, are the engine's."""

    def __init__(self, num_seqs: int, blocks: int) -> None:
        self.config = ModelConfig()
        self.device = torch.device("cpu")
        self.blocks = BlockManager(blocks, num_seqs)
        sizes = {"max_length": MAX_LENGTH, "max_source": 256, "max_bad_word_tokens": 16}
        eos = self.config.eos_token_id
        self.state = SearchState(num_seqs, blocks * BLOCK_SIZE, eos=eos, like=torch.zeros(1, 8), **sizes)
        self.search = TorchSearch(self.state)
        self.batches, self.completions = BatchBuilder(num_seqs, MAX_LENGTH, self.device), CompletionQueue(0)
        self.finished = []
        self.step = self.count_step

    def encode(self, admitted: list[tuple[Job, list[int]]]) -> None:
        self.state.admit(admitted)
        for job, _ in admitted:
            self.state.finished_occupied[job.beam_ids] = True
            self.state.finished_length[job.beam_ids] = job.max_length - 1

    def count_step(self, batch: StepBatch) -> torch.Tensor:
        """The status of each search after one more position, or the prompt."""
        over = [max(job.position + 1, PROMPT_LENGTH) + 1 >= job.max_length for job, _ in batch.searches]
        return torch.tensor([int(Status.OVER if ends else Status.SEARCHING) for ends in over], dtype=torch.int32)


def measure(requests: int, steps: int, repeats: int) -> dict[str, Any]:
    """Host time of each of `steps` steps with so many requests of 5 beams: a row of the table, in milliseconds."""
    runs = [_run(requests, steps) for _ in range(repeats)]
    row: dict[str, Any] = {"requests": requests, "beams": requests * BEAMS, "beams_busy": round(runs[0][1], 3)}
    for part in PARTS:
        least = 1e3 * np.min([[spent.get(part, 0.0) for spent in taken] for taken, _ in runs], axis=0)
        found = {"mean": np.mean(least), "median": np.median(least), "p99": np.quantile(least, 0.99)}
        row[part] = {name: round(float(value), 3) for name, value in found.items()}
    return row


def _run(requests: int, steps: int) -> tuple[list[dict[str, float]], float]:
    """Seconds of each step by part, and the mean share of busy beams. Every run takes the same steps."""
    runner = FakeRunner(requests * BEAMS, requests * (blocks_needed(30, BEAMS, 48) + 4))
    core, jobs = Core(runner, _PREPROCESSOR, EngineConfig()), _jobs()
    clock = StageClock("cpu", rest="bookkeeping")
    for owner, part, names in (
        (core.scheduler, "scheduler", _METHODS),
        (runner.batches, "batch", ("batch",)),
        (runner.completions, "completions", ("push", "pop")),
        (runner.state, "admission", ("admit",)),
        (runner, "results", ("finish",)),
        (runner, "device", ("encode", "step")),
    ):
        for name in names:
            clock.watch(owner, name, part)
    taken: list[dict[str, float]] = []
    busy: list[int] = []
    for _ in range(WARM_UP + steps):
        while len(core.scheduler.waiting) < requests // 4 + 4:
            core.submit(next(jobs))
        spent, _ = clock.of(core.step)
        taken.append(spent | {"host": sum(spent.values()) - spent.get("device", 0.0)})
        busy.append(sum(job.num_seqs for job in core.scheduler.decoding))
    return taken[WARM_UP:], statistics.mean(busy[WARM_UP:]) / (requests * BEAMS)


def _jobs() -> Iterator[Job]:
    """The sentences of the ragged trace, again and again."""
    config = ModelConfig(text_lang_ids={"eng": 256_000, "fra": 256_001})
    for item in itertools.cycle(items("t2tt", "ragged", 64, config)):
        request, length = item.request("t2tt", BEAMS), item.source_length
        known = {"max_new_tokens": item.new_tokens, "language_id": 5, "voice": None, "started": time.perf_counter()}
        assert request.params is not None
        yield Job(request, request.params, Result(0, "t2tt", "fra"), None, length, length, **known)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, default=RESULTS / "scheduler.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(requests, options.steps, options.repeats) for requests in options.requests]
    print("Host time of a step in milliseconds: mean / median / p99")
    cells = [[" / ".join(map(str, v.values())) if isinstance(v, dict) else v for v in row.values()] for row in rows]
    print_table(list(rows[0]), cells)
    write_json(options.json, {"machine": machine("cpu"), "host": rows})


if __name__ == "__main__":
    main()
