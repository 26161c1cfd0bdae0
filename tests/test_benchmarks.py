"""The benchmarks: no number without passing tests or of another result, every level in one table, the right floors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def benchmark(code: str) -> subprocess.CompletedProcess[str]:
    """Python code in the root of the repository, where `benchmarks` is a package."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)


def test_failing_tests_names_the_operations_that_get_no_number(tmp_path: Path) -> None:
    ops = tmp_path / "tests" / "ops"
    ops.mkdir(parents=True)
    (ops / "test_right.py").write_text("def test_it():\n    pass\n")
    (ops / "test_wrong.py").write_text("def test_it():\n    assert 1 == 2\n")
    code = f"from pathlib import Path; from benchmarks.kernels import runner; runner.ROOT = Path({str(tmp_path)!r}); "
    done = benchmark(code + "print(*runner.failing_tests(['right', 'wrong', 'gone'], 'cpu'))")
    assert done.returncode == 0, done.stderr
    assert "tests of right: 1 passed" in done.stdout and "assert 1 == 2" in done.stdout
    assert done.stdout.splitlines()[-1] == "wrong gone"


def test_run_leaves_out_an_implementation_that_fails_or_disagrees_and_ends_with_the_latter() -> None:
    code = """
import json, torch
from benchmarks.kernels import runner
from benchmarks.kernels.case import Case
from benchmarks.roofline import Ceilings

def cannot(x):
    raise NotImplementedError("not on this machine")

def run(**others):
    case = Case("x", lambda: (torch.ones(9),), {"ours": torch.exp, **others}, 9.0, 72.0)
    return runner.run("op", [case], torch.device("cpu"), Ceilings(1e9, 1e9))

rows = list(run(torch=lambda x: x.exp(), other=cannot))
runner.show(rows)
print(json.dumps(rows))
for row in run(torch=torch.sin, another=torch.exp):
    print(row["provider"])
"""
    done = benchmark(code)
    assert done.returncode == 1 and "op, x: torch differs from ours" in done.stderr, done.stderr
    left_out, header, _, rows, *others = done.stdout.splitlines()
    assert others == ["ours", "another"]
    assert left_out == "op, x: no other: not on this machine"
    assert header.split() == "op case bound TFLOP/s GB/s share ours µs torch µs".split()
    assert [row["provider"] for row in json.loads(rows)] == ["ours", "torch"]


def test_registry_has_cases_and_tests_of_every_operation() -> None:
    code = """
import torch
from benchmarks.kernels.case import Setup
from benchmarks.kernels.registry import CASES
from tools.tune import TUNE
assert set(TUNE) <= set(CASES)
for name, cases in CASES.items():
    print(name, sum(1 for _ in cases(Setup(torch.device("cpu"), torch.float32, quick=True))))
"""
    done = benchmark(code)
    assert done.returncode == 0, done.stderr
    counts = dict(line.split() for line in done.stdout.splitlines())
    assert all(int(count) > 0 and (ROOT / "tests" / "ops" / f"test_{op}.py").exists() for op, count in counts.items())


def test_changes_of_the_tuner_are_every_choice_and_one_number_of_a_tile_at_a_time() -> None:
    code = """
import json
from tools import tune
choices = {"WARPS": (1, 2), "ROWS": (4, 8), "TILES": {1: (16, 64)}}
for change in tune.changes({"WARPS": 1, "ROWS": 4, "TILES": [[64, 16], [64, 32]]}, choices):
    print(json.dumps(change))
"""
    done = benchmark(code)
    assert done.returncode == 0, done.stderr
    tried = [json.loads(line) for line in done.stdout.splitlines()]
    plain = [{"WARPS": warps, "ROWS": rows} for warps in (1, 2) for rows in (4, 8)]
    tiles = [[[64, 64], [64, 32]], [[64, 16], [64, 16]], [[64, 16], [64, 64]]]
    assert tried[:4] == plain and sorted(change["TILES"] for change in tried[4:]) == sorted(tiles)


def test_floors_of_the_published_model_are_those_derived_by_hand() -> None:
    code = """
from benchmarks.engine.floors import Floors, Work
from benchmarks.roofline import Ceilings
from seamless_engine.config import ModelConfig
floors = Floors(ModelConfig(), Ceilings(bandwidth=3.35e12, matmul=989e12), element_size=2)
clip = Work(frames=499, tokens=0, new_tokens=36, units=500, vocoder_frames=500)
for count, beams in ((1, 5), (256, 1), (256, 5)):
    print(1e3 * sum(floors.of([clip] * count, beams).values()), 1e3 * floors.step([63] * count, 18, beams))
sentence = Work(frames=0, tokens=36, new_tokens=36)
print(*(1e3 * seconds for seconds in floors.of([sentence] * 8, 5).values()))
"""
    done = benchmark(code)
    assert done.returncode == 0, done.stderr
    *speech, text = [[float(number) for number in line.split()] for line in done.stdout.splitlines()]
    for found, derived in zip(speech, ((18.7, 0.492), (280, 1.096), (358, 3.261)), strict=True):
        assert found == pytest.approx(derived, rel=0.015)
    assert text[0] > 0 and text[1] > 36 * 0.48 and text[2:] == [0, 0]


def test_sweep_ends_where_the_memory_does() -> None:
    code = """
import torch
from benchmarks.engine.sides import sweep
def seconds(size):
    tried.append(size)
    if size > 32:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate too much")
    return 1.0 + size / 16
for seconds_of, sizes, left in (
    (seconds, [1, 8, 32, 64, 128], 1e9),
    (lambda size: tried.append(size) or float(size), [1, 8, 32, 64], 10.0),
    (lambda size: tried.append(size) or size * size / 4, [1, 2, 4], 1e9),
):
    tried = []
    print(sweep(seconds_of, sizes, lambda: left, lambda size: size), tried)
"""
    done = benchmark(code)
    assert done.returncode == 0, done.stderr
    refused, *found = done.stdout.splitlines()
    assert refused == "sweep  not with 64: CUDA out of memory. Tried to allocate too much"
    assert found == ["[32, 8, 1] [1, 8, 32, 64]", "[1, 8] [1, 8]", "[1, 2] [1, 2]"]


def test_engine_under_load_has_every_level_in_json_and_the_last_table(tmp_path: Path) -> None:
    options = (
        "--suite load --quick --tasks s2st t2tt --lengths fixed --beams 2 --at-once 2 1 --repeats 1 --json".split()
    )
    code = f"""
import runpy, sys
from pathlib import Path
from benchmarks import roofline
roofline.measure = lambda *_: roofline.Ceilings(bandwidth=1e10, matmul=1e11)
for name, more in (("all", []), ("none", ["--seconds", "0"])):
    sys.argv = ["engine", *{options!r}, str(Path({str(tmp_path)!r}) / f"{{name}}.json"), *more]
    runpy.run_module("benchmarks.engine", run_name="__main__")
"""
    done = benchmark(code)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))["rows"]
    levels = [(task, count, side) for task in ("s2st", "t2tt") for count in (2, 1) for side in ("ours", "transformers")]
    assert [(row["task"], row["at_once"], row["side"]) for row in rows] == levels
    for row in rows:
        assert row["status"] == "measured" and row["wall_s"] > 0 and row["p95_s"] >= row["p50_s"] > 0
        assert 0 < sum(row["stages_s"].values()) and set(row["floor_s"]) < set(row["stages_s"])
        synthesizes = row["task"] == "s2st"
        assert (row["rtfx"] is not None) == synthesizes and (row["audio_out_s"] > 0) == synthesizes
        assert (row["stages_s"]["vocoder"] > 0) == synthesizes and row["stages_s"]["decode"] > 0
    assert "transformers equals ours in 2 of 2 requests" in done.stdout
    rows = json.loads((tmp_path / "none.json").read_text(encoding="utf-8"))["rows"]
    assert [row["status"] for row in rows] == ["not reached"] * len(levels)
    assert all("not reached" in line for line in done.stdout.splitlines()[-len(levels) :])


def test_scheduler_benchmark_measures_the_host_alone(tmp_path: Path) -> None:
    path = tmp_path / "scheduler.json"
    arguments = ["scheduler", *"--requests 4 --steps 20 --repeats 1 --json".split(), str(path)]
    done = benchmark(f"import sys; from benchmarks.engine import scheduler; sys.argv = {arguments!r}; scheduler.main()")
    assert done.returncode == 0, done.stderr
    [row] = json.loads(path.read_text(encoding="utf-8"))["host"]
    assert (row["requests"], row["beams"]) == (4, 20) and 0 < row["beams_busy"] <= 1
    assert row["host"]["median"] >= row["bookkeeping"]["median"] > 0


def test_profile_has_a_table_of_a_decode_step_and_one_of_either_pass(tmp_path: Path) -> None:
    arguments = ["profile_step", "--device", "cpu", "--quick", "--top", "3", "--json", str(tmp_path / "p.json")]
    done = benchmark(f"import sys; from tools import profile_step; sys.argv = {arguments!r}; profile_step.main()")
    assert done.returncode == 0, done.stderr
    step, encode, synthesize = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))["profiles"]
    assert step["what"] == "decode step, 1 × 5 beams" and encode["what"] == "encoder pass, 1 × 499 frames"
    assert synthesize["what"].startswith("synthesis pass, 1 × 36 tokens, ")
    for found in (step, encode, synthesize):
        assert found["count"] > 0 and 0 < found["busy_us"] <= found["wall_us"] and 0 <= found["host_share"] < 1
    assert done.stdout.count(" more ") == 3
