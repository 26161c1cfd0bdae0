"""Where a decode step, an encoder pass and a synthesis pass spend their time, by kernel; on a CPU by torch's operation.

    python -m tools.profile_step --device cuda [--requests 1] [--beams 5]
    python -m tools.profile_step --device cpu --quick

Random weights in the dims of v2-large; requests of 10 s, in the middle of their text. All three are profiled inside the
engine, on a GPU from its graphs. "wall" is timed without the profiler there, "busy" is the sum of the table; the rest
of the wall is the host's, during which the device waits.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.clock import seconds_of
from benchmarks.engine.workload import TINY, TOKENS, items, random_checkpoint
from benchmarks.host import scratch_folder
from benchmarks.report import machine, print_facts, print_table, write_json
from seamless_engine import Engine, EngineConfig

_CALLS = 10  # of what is profiled; numbers are those of one
_NAME = 72  # letters of a kernel's name that are printed


def profiled(what: str, call: Callable[[], Any], device: str) -> dict[str, Any]:
    """One of many calls. count: kernels, copies and fills. graphs: launches of CUDA graphs."""

    def calls() -> None:
        for _ in range(_CALLS):
            call()

    for _ in range(2):  # the second time, a graph of a size that is new is captured
        call()
    wall, gpu = seconds_of(calls, device), device == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as profiler:
        seen = seconds_of(calls, device)
    kind, spent = ("CUDA", "self_device_time_total") if gpu else ("CPU", "self_cpu_time_total")
    events = profiler.key_averages()
    mine = [event for event in events if event.device_type.name == kind]
    rows = [(event.key, event.count / _CALLS, getattr(event, spent) / _CALLS) for event in mine]
    # A CPU's operations take longer under the profiler, and so does the whole.
    wall_us, busy_us = 1e6 * (wall if gpu else seen) / _CALLS, sum(row[2] for row in rows)
    return {
        "what": what,
        "wall_us": wall_us,
        "busy_us": busy_us,
        "host_share": max(0.0, 1.0 - busy_us / wall_us),
        "count": sum(row[1] for row in rows),
        "graphs": sum(event.count for event in events if event.key == "cudaGraphLaunch") / _CALLS,
        "rows": sorted(rows, key=lambda row: -row[2]),
    }


def profiles(engine: Engine, requests: int, beams: int) -> list[dict[str, Any]]:
    """A turn of the loop in the middle of the texts, the first encoder pass and the first synthesis pass."""
    found: dict[str, dict[str, Any]] = {}
    work = items("s2st", "fixed", requests, engine.config)
    core, runner, turns = engine.core, engine.core.runner, itertools.count()
    step, encode, synthesize = core.step, runner.encode, runner.synthesize

    def profile_once(name: str, what: str, call: Callable[[], Any]) -> None:
        found[name] = found.get(name) or profiled(f"{name}, {what}", call, engine.device.type)

    def step_profiled() -> None:
        if next(turns) == TOKENS // 2:
            profile_once("decode step", f"{requests} × {beams} beams", step)
        step()

    def encode_profiled(admitted: list[Any]) -> None:
        sources = [job.source for job, _ in admitted]

        def call() -> None:
            for (job, _), source in zip(admitted, sources, strict=True):
                job.source = source  # a pass takes them away
            encode(admitted)

        profile_once("encoder pass", f"{len(admitted)} × {admitted[0][0].num_tokens} frames", call)
        call()

    def synthesize_profiled(jobs: list[Any]) -> Callable[[], None]:
        finish = synthesize(jobs)
        finish()
        seconds = sum(len(job.result.n_best[0].audio) for job in jobs) / engine.config.sampling_rate
        what = f"{len(jobs)} × {TOKENS} tokens, {seconds:.0f} s of speech"
        profile_once("synthesis pass", what, lambda: synthesize(jobs)())
        return finish

    longer = [replace(item, new_tokens=TOKENS + 3 * _CALLS) for item in work]
    with patch.object(core, "step", step_profiled):
        engine.generate([item.request("s2tt", beams, may_end=False) for item in longer])
    with patch.multiple(runner, encode=encode_profiled, synthesize=synthesize_profiled):
        engine.generate([item.request("s2st", 1, may_end=False) for item in work])
    return list(found.values())


def show(found: dict[str, Any], top: int) -> None:
    print("\n{what}: wall {wall_us:.0f} µs, busy {busy_us:.0f} µs, ".format(**found), end="")
    print("host {host_share:.1%}, {count:g} launches, {graphs:g} graphs".format(**found))
    rows, rest = found["rows"][:top], found["rows"][top:]
    if rest:
        rows = [*rows, (f"{len(rest)} more", sum(row[1] for row in rest), sum(row[2] for row in rest))]
    lines = [[name[:_NAME], f"{count:g}", f"{us:.1f}", f"{us / found['busy_us']:.1%}"] for name, count, us in rows]
    print_table(["name", "count", "µs", "share"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="auto")
    parser.add_argument("--requests", type=int, default=1)
    parser.add_argument("--beams", type=int, default=5)
    parser.add_argument("--top", type=int, default=25, help="lines of a table")
    parser.add_argument("--quick", action="store_true", help="tiny dims, to try the profile itself")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    settings = EngineConfig(max_num_seqs=max(EngineConfig.max_num_seqs, options.requests * options.beams))
    where = {"device": options.device, "dtype": options.dtype}
    with tempfile.TemporaryDirectory(dir=scratch_folder()) as scratch:
        folder = random_checkpoint(Path(scratch), TINY if options.quick else {}, options.device, endless=True)
        engine = Engine.from_pretrained(folder, tasks=["s2tt", "s2st"], options=settings, **where)
        found = profiles(engine, options.requests, options.beams)
    facts = machine(options.device, engine.dtype)
    print_facts(facts)
    for one in found:
        show(one, options.top)
    if options.json:
        write_json(options.json, {"machine": facts, "profiles": found})


if __name__ == "__main__":
    main()
