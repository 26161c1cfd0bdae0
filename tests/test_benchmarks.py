"""The benchmarks of kernels: no number without passing tests or of another result, and one table of all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def benchmark(code: str) -> subprocess.CompletedProcess[str]:
    """Python code in the root of the repository, where `benchmarks` is a package."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)


def test_there_is_no_number_where_a_test_fails(tmp_path: Path) -> None:
    ops = tmp_path / "tests" / "ops"
    ops.mkdir(parents=True)
    (ops / "test_right.py").write_text("def test_it():\n    pass\n")
    (ops / "test_wrong.py").write_text("def test_it():\n    assert 1 == 2\n")
    code = f"from pathlib import Path; from benchmarks import verify; verify.ROOT = Path({str(tmp_path)!r}); "
    passed = benchmark(code + "verify.verify(['right'])")
    assert passed.returncode == 0 and passed.stdout.startswith("tests of right: 1 passed"), passed.stderr
    for ops in (["right", "wrong"], ["right", "gone"]):
        refused = benchmark(code + f"verify.verify({ops}); print('a number')")
        assert refused.returncode == 1 and "a number" not in refused.stdout
        assert f"no benchmark: the tests of {ops[1]} fail" in refused.stderr


def test_a_provider_that_computes_something_else_ends_the_benchmark_and_one_that_cannot_is_left_out(
    tmp_path: Path,
) -> None:
    code = f"""
import torch
from pathlib import Path
from benchmarks import kernel_bench
from benchmarks.roofline import Ceilings

def cannot(x):
    raise NotImplementedError("not on this machine")

def case(**others):
    return kernel_bench.Case("x", lambda: (torch.ones(9),), {{"ours": torch.exp, **others}}, 9.0, 72.0)

def run(case):
    return kernel_bench.run("op", [case], torch.device("cpu"), Ceilings(1e9, 1e9))

rows = run(case(torch=lambda x: x.exp(), other=cannot))
kernel_bench.show(rows, {{"device": "none", "dtype": "float32"}})
kernel_bench.store("op", rows, {{"device": "none", "dtype": "float32"}}, Path({str(tmp_path)!r}))
run(case(torch=torch.sin))
"""
    done = benchmark(code)
    assert done.returncode == 1 and "op, x: torch differs from ours" in done.stderr, done.stderr
    assert "op, x: no other: not on this machine" in done.stdout
    header = next(line for line in done.stdout.splitlines() if "case" in line)
    assert header.split() == "op case bound TFLOP/s GB/s share ours µs torch µs".split()
    stored = json.loads((tmp_path / "op.json").read_text(encoding="utf-8"))
    assert [row["provider"] for row in stored["rows"]] == ["ours", "torch"]
    assert (tmp_path / "op.csv").read_text(encoding="utf-8").startswith("# device=none; dtype=float32\n")


def test_the_tuner_tries_every_choice_and_one_number_of_a_tile_at_a_time() -> None:
    code = """
import json
from benchmarks import tune
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
