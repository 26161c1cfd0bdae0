"""Where a decode step, an encoder and a speech pass spend their time, by kernel; on a CPU by operation of torch.

    python -m benchmarks.profile_step --device cuda [--requests 1] [--beams 5]
    python -m benchmarks.profile_step --device cpu --quick

Random weights in the dims of v2-large; requests of 10 s, in the middle of their text. A turn of the engine's loop is
profiled as it runs, on a GPU from a recorded graph. "wall" is timed without the profiler there, "busy" is the sum of
the table; the rest of the wall is the host's, during which the device waits.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import machine, print_table, timed, write_json
from benchmarks.workload import SECONDS, TINY, TOKENS, endless_checkpoint, fast_folder, fixed_items
from seamless_engine import Engine, Result
from seamless_engine.config import EngineConfig
from seamless_engine.job import Job
from seamless_kernels.fbank import fbank, frame_count

_CALLS = 10  # of what is profiled; numbers are those of one
_NAME = 72  # letters of a kernel's name that are printed


@dataclass(frozen=True)
class Profile:
    """One call of something. rows: name, count, microseconds of every kernel or operation, the longest first.

    graphs: recorded graphs that were launched.
    """

    what: str
    wall_us: float
    rows: list[tuple[str, float, float]]
    graphs: float

    @property
    def busy_us(self) -> float:
        return sum(us for _, _, us in self.rows)

    @property
    def count(self) -> float:
        """Kernels, copies and fills: the nodes of a step's graph, and the copy of its flags to the host."""
        return sum(count for _, count, _ in self.rows)

    @property
    def host_share(self) -> float:
        return max(0.0, 1.0 - self.busy_us / self.wall_us)


def profiled(what: str, call: Callable[[], Any], device: str) -> Profile:
    """`call` may be called any number of times; one of them is a call of many."""

    def calls() -> None:
        for _ in range(_CALLS):
            call()

    for _ in range(2):  # the second time, what is new in size is recorded
        call()
    wall, _ = timed(calls, device)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as profiler:
        seen, _ = timed(calls, device)
    kind, time_of = ("CUDA", "self_device_time_total") if device == "cuda" else ("CPU", "self_cpu_time_total")
    events = profiler.key_averages()
    rows = [
        (event.key, event.count / _CALLS, getattr(event, time_of) / _CALLS)
        for event in events
        if event.device_type.name == kind
    ]
    graphs = sum(event.count for event in events if event.key == "cudaGraphLaunch") / _CALLS
    # A CPU's operations take longer under the profiler, and so does the whole.
    wall_us = 1e6 * (wall if device == "cuda" else seen) / _CALLS
    return Profile(what, wall_us, sorted(rows, key=lambda row: -row[2]), graphs)


def decode_step(engine: Engine, requests: int, beams: int) -> Profile:
    """A turn of the loop while `requests` of speech decode, none of which ends meanwhile."""
    length = 2 * TOKENS + 4 * _CALLS
    for item in fixed_items("s2tt", engine.config, requests, SECONDS, length):
        request = item.request("s2tt", beams, may_end=False)
        assert request.params is not None
        job = engine._preprocessor.prepare(request, request.params, Result(0, "s2tt", "fra"))
        engine._loop.submit(job)
    while engine._loop.scheduler.waiting:
        engine._loop.step()
    for _ in range(TOKENS // 2):
        engine._loop.step()
    found = profiled(f"decode step, {requests} × {beams} rows", engine._loop.step, engine.device.type)
    for job in list(engine._loop.scheduler.decoding):
        engine._loop.drop(job)
    return found


@torch.inference_mode()
def encoder_pass(engine: Engine, requests: int) -> Profile:
    """The speech encoder on features that are there."""
    clips = [item.waveform for item in fixed_items("s2tt", engine.config, requests, SECONDS, TOKENS)]
    waves = [torch.from_numpy(clip) for clip in clips if clip is not None]
    bounds = [0, *torch.tensor([len(wave) for wave in waves]).cumsum(0).tolist()]
    rows, cu_seqlens, valid = fbank(torch.cat(waves).to(engine.device), bounds)
    assert engine._runner.encode_frames is not None
    encode_frames, encodings = engine._runner.encode_frames, int((valid // engine.config.adaptor_stride + 1).sum())

    @torch.inference_mode()
    def run() -> torch.Tensor:
        return encode_frames(rows, cu_seqlens, valid, encodings)

    what = f"encoder pass, {requests} × {frame_count(len(waves[0])) // 2} frames"
    return profiled(what, run, engine.device.type)


def speech_pass(engine: Engine, requests: int) -> Profile:
    """The first speech pass of the requests: units and samples of the best text of each."""
    passes: list[list[Job]] = []
    runner, items = engine._runner, fixed_items("s2st", engine.config, requests, SECONDS, TOKENS)
    with patch.object(runner, "synthesize", passes.append):  # the requests as they are before it
        engine.generate([item.request("s2st", 1, may_end=False) for item in items])
    found = profiled("", lambda: runner.synthesize(passes[0]), engine.device.type)
    clips = [hypothesis.audio for job in passes[0] for hypothesis in job.result.n_best]
    seconds = sum(len(clip) for clip in clips if clip is not None) / engine.config.sampling_rate
    return replace(found, what=f"speech pass, {len(clips)} × {TOKENS} tokens, {seconds:.0f} s of speech")


def show(found: Profile, top: int) -> None:
    print(
        f"\n{found.what}: wall {found.wall_us:.0f} µs, busy {found.busy_us:.0f} µs, host {found.host_share:.1%}, "
        f"{found.count:g} launches, {found.graphs:g} graphs"
    )
    lines = [[name[:_NAME], f"{count:g}", f"{us:.1f}", f"{us / found.busy_us:.1%}"] for name, count, us in found.rows]
    rest = found.rows[top:]
    if rest:
        us = sum(row[2] for row in rest)
        lines[top:] = [
            [f"{len(rest)} more", f"{sum(row[1] for row in rest):g}", f"{us:.1f}", f"{us / found.busy_us:.1%}"]
        ]
    print_table(["name", "count", "µs", "share"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="auto")
    parser.add_argument("--requests", type=int, default=1)
    parser.add_argument("--beams", type=int, default=5)
    parser.add_argument("--top", type=int, default=25, help="lines of a table")
    parser.add_argument("--quick", action="store_true", help="tiny dims, to try the profile itself")
    parser.add_argument("--checkpoint", type=Path, help="folder to keep the random checkpoint in between runs")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    settings = EngineConfig(max_num_seqs=max(EngineConfig.max_num_seqs, options.requests * options.beams))
    with tempfile.TemporaryDirectory(dir=fast_folder()) as scratch:
        folder = endless_checkpoint(options.checkpoint or Path(scratch), TINY if options.quick else {}, options.device)
        engine = Engine.from_pretrained(
            folder, tasks=["s2tt", "s2st"], device=options.device, dtype=options.dtype, options=settings
        )
        found = [
            decode_step(engine, options.requests, options.beams),
            encoder_pass(engine, options.requests),
            speech_pass(engine, options.requests),
        ]
    facts = machine(options.device)
    print("  ".join(f"{key}={value}" for key, value in facts.items()))
    for one in found:
        show(one, options.top)
    if options.json:
        keys = ("what", "wall_us", "busy_us", "host_share", "count", "graphs", "rows")
        write_json(
            options.json, {"machine": facts, "profiles": [{key: getattr(p, key) for key in keys} for p in found]}
        )


if __name__ == "__main__":
    main()
