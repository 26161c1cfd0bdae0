"""On a machine with a GPU: is everything right, and how fast is it?

    python -m benchmarks.device check [--device cpu] [--quick] [--only PART ...] [--out FOLDER]
    python -m benchmarks.device measure [--device cpu] [--quick] [--only PART ...] [--out FOLDER]

Both run their parts in processes of their own, each with a time limit, what says most first. A part that fails is named
and the others go on; FOLDER/check.json and FOLDER/measure.json have the results of all parts that have ended. The exit
code is 1 if a part did not succeed. `check` takes 230 s at most, `measure` 480 s.

For a machine that has no network and not all of our dependencies, elsewhere, with its versions:

    python3.12 -m venv target
    target/bin/pip install torch==2.11.0 triton==3.6.0 transformers==5.17.0 'numpy<2.4' safetensors sentencepiece \
        tokenizers huggingface_hub pybind11 setuptools
    PYTHONPATH=engine:kernels target/bin/python -m benchmarks.device prepare

That makes the folder .device/. With it, in the root of the repository there:

    . benchmarks/device/setup.sh && python3 -m benchmarks.device check
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.device import prepare
from benchmarks.device.parts import Context, Part, Runner, chosen
from benchmarks.host import scratch_folder

_HERE = "benchmarks.device."
_DEMO, _LOAD = f"{_HERE}check_demo:", f"{_HERE}measure_load:"
_KERNELS = f"{_HERE}measure_kernels:"
_MACHINE = Part("machine", 60, f"{_HERE}machine:describe")
PARTS = {
    "check": [
        _MACHINE,
        Part("search", 60, f"{_HERE}check_search:compare"),
        Part("float32", 90, f"{_DEMO}answer", {"dtype": "float32"}),
        Part("cpu", 90, f"{_DEMO}answer", {"dtype": "float32", "on_cpu": True}),
        Part("float32-cpu", 30, f"{_HERE}answers:against_cpu", {"dtype": "float32"}, ("float32", "cpu")),
        Part("float32-graphs", 90, f"{_DEMO}by_graphs", {"dtype": "float32"}, ("float32",)),
        Part("bfloat16", 90, f"{_DEMO}answer", {"dtype": "bfloat16"}),
        Part("bfloat16-cpu", 30, f"{_HERE}answers:against_cpu", {"dtype": "bfloat16"}, ("bfloat16", "cpu")),
        Part("bfloat16-graphs", 90, f"{_DEMO}by_graphs", {"dtype": "bfloat16"}, ("bfloat16",)),
        Part("bfloat16-alone", 90, f"{_DEMO}alone", {"dtype": "bfloat16"}, ("bfloat16",)),
        Part("candidates", 60, f"{_HERE}check_candidates:prove"),
        Part("synchronisation", 60, f"{_HERE}check_tests:synchronisation"),
        Part("tests", 150, f"{_HERE}check_tests:kernels"),
    ],
    "measure": [
        _MACHINE,
        Part("engine", 240, f"{_LOAD}engine"),
        Part("kernels", 150, f"{_KERNELS}run"),
        Part("transformers", 120, f"{_LOAD}transformers", needs=("engine",)),
        Part("flex-attention", 60, f"{_KERNELS}run", {"only": ["rel_attention"], "compiled": True}),
    ],
}
_SECONDS = {"check": 230.0, "measure": 480.0}
_CPU = 10  # times as long as on a GPU, for which the limits are


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    prepare.add_arguments(commands.add_parser("prepare", help="make the folder that travels"))
    for name, parts in PARTS.items():
        command = commands.add_parser(name)
        command.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
        command.add_argument("--quick", action="store_true", help="the smallest sizes, to try the command itself")
        names = [part.name for part in parts]
        command.add_argument("--only", nargs="+", choices=names, default=[], metavar="PART", help=", ".join(names))
        command.add_argument("--out", type=Path, default=Path("build/device"))
    return parser.parse_args()


def main() -> int:
    options = parse()
    if options.command == "prepare":
        return prepare.main(options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the parts end, too
    # What measures has the machine for itself.
    together = 1 if options.command == "measure" else 4 if options.device == "cuda" else os.cpu_count() or 1
    start, target = time.monotonic(), options.out / f"{options.command}.json"
    with tempfile.TemporaryDirectory(dir=scratch_folder()) as scratch:
        factor, parts = _CPU if options.device == "cpu" else 1, chosen(PARTS[options.command], options.only)
        context = Context(options.device, options.quick, scratch, "")
        runner = Runner(context, target, factor * _SECONDS[options.command], together)
        records = runner.run([replace(part, seconds=factor * part.seconds) for part in parts])
    show(records)
    print(f"written: {target}, after {time.monotonic() - start:.0f} s")
    return int(any(record["status"] != "ok" for record in records))


def show(records: list[dict[str, Any]]) -> None:
    """The machine, and a line for each part."""
    for record in records:
        if "machine" in record:
            print("\n" + "  ".join(f"{name}={value}" for name, value in record["machine"].items()))
    widths = [max(len(str(record[key])) for record in records) for key in ("part", "status")]
    for record in records:
        name, status = (str(record[key]).ljust(width) for key, width in zip(("part", "status"), widths, strict=True))
        print(f"{name}  {status}  {record['seconds']:6.1f} s  {record['said']}")


if __name__ == "__main__":
    sys.exit(main())
