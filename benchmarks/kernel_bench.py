"""What the benchmarks of single operations share: cases in, a table of times and shares of the machine's ceilings out.

A benchmark is a file `bench_<op>.py` with `cases(device, dtype, quick)` and `main("<op>", cases)` at its end:

    python -m benchmarks.bench_layer_norm [--device cuda] [--dtype bfloat16] [--out DIR] [--quick]

The tests of the operation run first; without them passing there is no number. With --out: OP.json, OP.csv and OP.png.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import roofline
from benchmarks.common import machine, print_table, write_json
from benchmarks.verify import verify

_COPIES = 4  # sets of inputs that calls take in turn
_DISAGREEMENT = 0.03  # relative difference of norms that two correct 16-bit results stay below


@dataclass(frozen=True)
class Case:
    """One shape of an operation, and who computes it.

    inputs: makes one set of arguments; called a few times, so that calls do not find theirs in a cache.
    providers: name → function of these arguments. The first is ours; one that returns tensors must return the same as
        it, one that raises an exception, as it cannot take the case, is left out and named.
    operations, least_bytes: floating-point operations, and bytes that must be read and written once.
    """

    name: str
    inputs: Callable[[], tuple[Any, ...]]
    providers: Mapping[str, Callable[..., Any]]
    operations: float
    least_bytes: float


Cases = Callable[[torch.device, torch.dtype, bool], Iterable[Case]]


def run(op: str, cases: Iterable[Case], device: torch.device, ceilings: roofline.Ceilings) -> list[dict[str, Any]]:
    """A row for each case and provider: microseconds, TFLOP/s, GB/s, and the share of the floor's time."""
    return [row for case in cases for row in _run_case(op, case, device, ceilings)]


@torch.inference_mode()
def _run_case(op: str, case: Case, device: torch.device, ceilings: roofline.Ceilings) -> Iterable[dict[str, Any]]:
    sets = [case.inputs() for _ in range(_COPIES)]
    ours: Any = None
    floor = ceilings.floor(case.operations, case.least_bytes)
    for name, provider in case.providers.items():
        row: dict[str, Any] = {"op": op, "case": case.name, "provider": name}
        try:
            result = provider(*sets[0])
            seconds = roofline.median_seconds(lambda i, call=provider: call(*sets[i % _COPIES]), device)
        except Exception as reason:
            if ours is None:
                raise
            print(f"{op}, {case.name}: no {name}: {(str(reason).splitlines() or [repr(reason)])[0]}", flush=True)
            continue
        if ours is None:
            ours = result
        else:
            check_agreement(ours, result, f"{op}, {case.name}: {name}")
        row["us"] = seconds * 1e6
        row["tflops"] = case.operations / seconds / 1e12
        row["gbps"] = case.least_bytes / seconds / 1e9
        row["share"] = floor / seconds
        row["bound"] = "bytes" if case.least_bytes / ceilings.bandwidth >= floor else "operations"
        yield row


def check_agreement(ours: Any, theirs: Any, what: str) -> None:
    """Raises SystemExit if a provider does not compute the same: its time would mean nothing."""
    if isinstance(ours, (tuple, list)) and isinstance(theirs, (tuple, list)):
        for one, other in zip(ours, theirs, strict=True):
            check_agreement(one, other, what)
    elif isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor) and ours.is_floating_point():
        if ours.shape != theirs.shape:
            raise SystemExit(f"{what} gives {tuple(theirs.shape)} for {tuple(ours.shape)}")
        difference = (ours.float() - theirs.float()).norm() / ours.float().norm().clamp(min=1e-6)
        if not difference.item() < _DISAGREEMENT:
            raise SystemExit(f"{what} differs from ours by {difference.item():.3g}")


def main(op: str, cases: Cases) -> None:
    """The command line of one benchmark."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.bench_{op}")
    add_options(parser)
    options = parser.parse_args()
    device, dtype = device_and_dtype(options)
    verify([op])
    ceilings = roofline.measure(device, dtype)
    rows = run(op, cases(device, dtype, options.quick), device, ceilings)
    facts = facts_of(device, dtype, ceilings)
    show(rows, facts)
    if options.out:
        store(op, rows, facts, options.out)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="default: float32 on the CPU")
    parser.add_argument("--out", type=Path, help="folder for JSON, CSV and plots")
    parser.add_argument("--quick", action="store_true", help="the smallest shapes, to try the benchmark itself")


def device_and_dtype(options: argparse.Namespace) -> tuple[torch.device, torch.dtype]:
    name = options.dtype or ("float32" if options.device == "cpu" else "bfloat16")
    return torch.device(options.device), getattr(torch, name)


def facts_of(device: torch.device, dtype: torch.dtype, ceilings: roofline.Ceilings) -> dict[str, Any]:
    """The machine, and its ceilings as measured in this run."""
    return {
        **machine(device.type),
        "dtype": str(dtype).removeprefix("torch."),
        "copy_gbps": round(ceilings.bandwidth / 1e9, 1),
        "matmul_tflops": round(ceilings.matmul / 1e12, 3),
    }


def show(rows: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    """One table: a line for each case with ours against the ceilings, then a column of microseconds per provider."""
    print("  ".join(f"{key}={value}" for key, value in facts.items()))
    header, lines = table(rows)
    print_table(header, lines)


def table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Header and lines of what `run` returned; a provider that did not take a case has a blank there."""
    providers = list(dict.fromkeys(row["provider"] for row in rows))
    cases: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        cases.setdefault((row["op"], row["case"]), {})[row["provider"]] = row
    header = ["op", "case", "bound", "TFLOP/s", "GB/s", "share", *(f"{name} µs" for name in providers)]
    lines = []
    for names, found in cases.items():
        ours = found[providers[0]]
        times = [found[name]["us"] if name in found else "" for name in providers]
        lines.append([*names, *(ours[key] for key in ("bound", "tflops", "gbps", "share")), *times])
    return header, lines


def store(op: str, rows: list[dict[str, Any]], facts: dict[str, Any], folder: Path) -> None:
    """OP.json, OP.csv (the machine in its first line) and, where matplotlib is installed, OP.png."""
    write_json(folder / f"{op}.json", {"machine": facts, "rows": rows})
    with (folder / f"{op}.csv").open("w", encoding="utf-8", newline="") as file:
        file.write("# " + "; ".join(f"{key}={value}" for key, value in facts.items()) + "\n")
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    try:
        plot(op, rows, facts, folder / f"{op}.png")
    except ImportError:
        print("no plots: pip install matplotlib")


def plot(op: str, rows: list[dict[str, Any]], facts: dict[str, Any], path: Path) -> None:
    """Bars of the share of the machine's ceiling: a group for each case, a colour for each provider."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = list(dict.fromkeys(row["case"] for row in rows))
    providers = list(dict.fromkeys(row["provider"] for row in rows))
    figure, axes = pyplot.subplots(figsize=(max(6.0, 1.6 * len(cases)), 4.0))
    width = 0.8 / len(providers)
    for i, provider in enumerate(providers):
        shares = {row["case"]: row["share"] for row in rows if row["provider"] == provider}
        places = [cases.index(case) + (i - (len(providers) - 1) / 2) * width for case in shares]
        axes.bar(places, list(shares.values()), width, label=provider)
    axes.set_xticks(range(len(cases)), cases, rotation=20, ha="right")
    axes.set_ylabel("share of the measured ceiling")
    axes.set_title(f"{op}, {facts['dtype']}, {facts['device']}")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    print(f"written: {path}")
