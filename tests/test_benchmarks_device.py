"""benchmarks.device: parts that fail cost the others nothing, and what a machine with a GPU needs is prepared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
_PARTS = """
import os, signal, subprocess, sys, time
from pathlib import Path

def right(context, value=1):
    context.save(value=value, machine={"device": context.device})
    return "all is right"

def wrong(context):
    context.save(value=2)
    raise ValueError("a reason")

def hangs(context):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    context.save(child=child.pid)
    time.sleep(600)

def dies(context):
    context.save(value=3)
    os.kill(os.getpid(), signal.SIGSEGV)

def left(context):
    Path(context.scratch, "left").write_text("from a part to another")
    return ""

def found(context):
    return Path(context.scratch, "left").read_text()
"""


def python(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In the root of the repository, without the interpreter of kernels that the tests choose."""
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=inherited | environment,
        capture_output=True,
        text=True,
    )


def run_parts(tmp_path: Path, parts: list[dict[str, Any]], seconds: float = 60.0, together: int = 1) -> dict[str, Any]:
    """What the JSON file has after these parts, whose functions are those of _PARTS."""
    (tmp_path / "own_parts.py").write_text(_PARTS)
    code = f"""
from pathlib import Path
from benchmarks.device.parts import Context, Part, Runner
parts = [Part(**(part | {{"call": "own_parts:" + part["call"]}})) for part in {parts!r}]
scratch, target = {str(tmp_path)!r}, Path({str(tmp_path / "out" / "run.json")!r})
records = Runner(Context("cpu", True, scratch, ""), target, {seconds}, {together}).run(parts)
assert [record["part"] for record in records] == [part.name for part in parts]
"""
    done = python("-c", code, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    return json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))


def test_run_keeps_the_results_of_parts_beside_one_that_raises_hangs_or_dies(tmp_path: Path) -> None:
    parts = [
        {"name": "raises", "seconds": 60, "call": "wrong"},
        {"name": "hangs", "seconds": 3, "call": "hangs"},
        {"name": "dies", "seconds": 60, "call": "dies"},
        {"name": "missing", "seconds": 60, "call": "gone"},
        {"name": "right", "seconds": 60, "call": "right", "options": {"value": 7}},
    ]
    found = run_parts(tmp_path, parts)
    raises, hangs, dies, missing, right = found["parts"]
    assert [part["part"] for part in found["parts"]] == [part["name"] for part in parts]
    assert found["machine"] == {"device": "cpu"}
    assert (raises["status"], raises["said"], raises["value"]) == ("failed", "ValueError: a reason", 2)
    assert "Traceback" in raises["output"]
    assert hangs["status"] == "stopped after 3 s" and 3 <= hangs["seconds"] < 30
    assert (dies["status"], dies["value"]) == ("died of SIGSEGV", 3)
    assert missing["status"] == "failed" and "gone" in missing["said"]
    assert (right["status"], right["said"], right["value"]) == ("ok", "all is right", 7)
    with pytest.raises(ProcessLookupError):  # what a part has started ends with it
        for _ in range(100):
            os.kill(hangs["child"], 0)
            time.sleep(0.05)


def test_run_leaves_out_parts_that_need_a_failed_one_and_parts_without_time(tmp_path: Path) -> None:
    parts = [
        {"name": "left", "seconds": 60, "call": "left"},
        {"name": "found", "seconds": 60, "call": "found", "needs": ("left",)},
        {"name": "wrong", "seconds": 60, "call": "wrong"},
        {"name": "needs it", "seconds": 60, "call": "right", "needs": ("wrong",)},
    ]
    found = run_parts(tmp_path, parts, together=2)["parts"]
    assert [part["status"] for part in found] == ["ok", "ok", "failed", "not run"]
    assert found[1]["said"] == "from a part to another" and found[3]["said"] == "wrong did not succeed"
    [late] = run_parts(tmp_path, parts[:1], seconds=0.0)["parts"]
    assert (late["status"], late["said"]) == ("not run", "no time was left")


def test_main_ends_its_parts_when_it_is_ended(tmp_path: Path) -> None:
    (tmp_path / "own_parts.py").write_text(_PARTS)
    code = """
import sys
from benchmarks.device import __main__ as command
from benchmarks.device.parts import Part
command.PARTS["check"][:] = [Part("hangs", 600, "own_parts:hangs")]
sys.argv = ["device", "check", "--device", "cpu", "--out", sys.argv[1]]
command.main()
"""
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, env=environment)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    for _ in range(600):
        if started := [int(pid) for task in children.parents[1].glob("*/children") for pid in task.read_text().split()]:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 1
    assert started and not Path(f"/proc/{started[0]}").exists()


def test_check_on_the_cpu_passes_every_part(tmp_path: Path) -> None:
    done = python("-m", "benchmarks.device", "check", *"--device cpu --quick --out".split(), str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))
    parts = {part["part"]: part for part in found["parts"]}
    assert {part["status"] for part in parts.values()} == {"ok"}
    assert {"device", "commit", "torch", "triton", "transformers"} <= found["machine"].keys()
    assert parts["float32-cpu"]["texts"] == parts["float32-cpu"]["of"] > 0
    assert parts["tests"]["failed"] == [] and "passed" in parts["tests"]["said"]
    table = done.stdout.splitlines()[-len(parts) - 2 : -1]
    assert table[0].startswith("device=") and [line.split()[0] for line in table[1:]] == list(parts)


def test_measure_on_the_cpu_has_profiles_levels_and_kernels(tmp_path: Path) -> None:
    done = python("-m", "benchmarks.device", "measure", *"--device cpu --quick --out".split(), str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "measure.json").read_text(encoding="utf-8"))
    parts = {part["part"]: part for part in found["parts"]}
    assert {part["status"] for part in parts.values()} == {"ok"}
    kinds = [profile["what"].split(",")[0] for profile in parts["engine"]["profiles"]]
    assert kinds == ["decode step", "encoder pass", "synthesis pass"]
    for name in ("engine", "transformers"):
        assert len(parts[name]["levels"]) >= 2
        assert all(row["status"] == "measured" and row["wall_s"] > 0 for row in parts[name]["levels"])
    assert all(0 < row["share"] for row in parts["engine"]["levels"])
    assert {row["op"] for row in parts["kernels"]["kernels"]} == {"linear", "linear_top_candidates"}


def test_only_runs_a_part_and_those_that_it_needs() -> None:
    code = """
from benchmarks.device.__main__ import PARTS
from benchmarks.device.parts import chosen
for parts in PARTS.values():
    names = [part.name for part in parts]
    assert all(need in names[:i] for i, part in enumerate(parts) for need in part.needs)
print(*(part.name for part in chosen(PARTS["check"], ["float32-cpu"])))
print(len(chosen(PARTS["check"], [])) == len(PARTS["check"]))
"""
    done = python("-c", code)
    assert done.stdout.splitlines() == ["float32 cpu float32-cpu", "True"], done.stderr


def test_prepare_refuses_an_interpreter_of_another_version(tmp_path: Path) -> None:
    folder = tmp_path / "prepared"
    command = ("-m", "benchmarks.device", "prepare", "--python", "3.99", "--triton", "1.0", "--folder", str(folder))
    done = python(*command)
    assert done.returncode == 1 and not folder.exists()
    assert "not 3.99" in done.stderr and "not 1.0" in done.stderr and "run prepare by an interpreter" in done.stderr


def test_walk_launches_the_kernels_of_every_pass_and_compiles_one_ahead_of_time() -> None:
    code = """
import sys
sys.path.append("tests")
import torch, triton
from aot.compile import Driver
from benchmarks.device.launches import META, on_gpu, walk_benchmarks, walk_engine
from benchmarks.engine.workload import TINY
from seamless_engine.config import EngineConfig, ModelConfig
from seamless_kernels.layer_norm import layer_norm
triton.runtime.driver.set_active(Driver("sm_90"))
with on_gpu("sm_90") as counts:
    walk_engine(ModelConfig(**TINY), EngineConfig(max_num_seqs=8), torch.bfloat16)
    refused = walk_benchmarks(torch.bfloat16, quick=True)
print(*sorted(counts), refused)
compiled = []
with on_gpu("sm_90", compiled.append):
    layer_norm(torch.empty(5, 64, device=META), *torch.empty(2, 64, device=META), 1e-5)
print(len(compiled), "cubin" in compiled[0].asm)
"""
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    names, compiled = done.stdout.splitlines()
    kernels = {"_product_kernel", "_frame_kernel", "_mel_kernel", "_merge_kernel", "_one_channel_kernel"}
    assert kernels <= set(names.split()) and names.endswith(" []")
    assert compiled == "1 True"
