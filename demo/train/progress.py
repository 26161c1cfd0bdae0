"""A training that stops and goes on: its state on disk, its curve in a CSV file, its limits.

State: {work}/{name}.pt, replaced once a minute and at the end. Curve: {work}/{name}.csv. {work}/{name}.done
appears when the training has reached its end.
"""

from __future__ import annotations

import argparse
import csv
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch


def arguments(doc: str | None, minutes: float = 8.0) -> argparse.ArgumentParser:
    """What every training step is asked."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of all data and states")
    parser.add_argument("--minutes", type=float, default=minutes, help="stop after so long; run again to go on")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=int, default=1, help="batches so many times as large, for a GPU")
    parser.add_argument("--start", type=Path, help="a checkpoint of this recipe to start from, not from fresh weights")
    parser.add_argument("--hidden", type=int, default=128, help="hidden size, a multiple of 64")
    return parser


def seeded(seed: int, step: int) -> None:
    """A step's random numbers depend on its number alone, so that a run in pieces is the run in one."""
    random.seed(seed * 1_000_003 + step)
    np.random.seed((seed * 1_000_003 + step) % 2**32)
    torch.manual_seed(seed * 1_000_003 + step)


class Progress:
    """Counters of a training (`step`, `hours` heard, CPU `minutes` spent), saved with the modules and the optimiser."""

    def __init__(self, work: Path, name: str, minutes: float, **parts: Any) -> None:
        self.path, self.curve = work / f"{name}.pt", work / f"{name}.csv"
        self.parts = parts
        self.step, self.hours, self.minutes = 0, 0.0, 0.0
        self._stop = time.monotonic() + 60 * minutes
        self._saved, self._cpu = time.monotonic(), time.process_time()
        self._sums: dict[str, float] = {}
        self._count = 0
        if self.path.exists():
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            for key, part in parts.items():
                part.load_state_dict(state[key])
            self.step, self.hours, self.minutes = state["counters"][:3]
            self._forget()
            print(
                f"{name}: goes on at step {self.step}, {self.hours:.2f} h, {self.minutes:.1f} CPU minutes", flush=True
            )

    def _forget(self) -> None:
        """Rows of the curve that a killed run wrote after it last saved: they are computed again."""
        if self.curve.exists():
            header, *rows = self.curve.read_text(encoding="utf-8").splitlines()
            kept = [row for row in rows if int(row.partition(",")[0]) <= self.step]
            self.curve.write_text("\n".join([header, *kept]) + "\n", encoding="utf-8")

    @property
    def out_of_time(self) -> bool:
        return time.monotonic() > self._stop

    def add(self, **losses: torch.Tensor) -> None:
        """One step's losses, averaged in the next row of the curve."""
        self._count += 1
        for key, loss in losses.items():
            self._sums[key] = self._sums.get(key, 0.0) + float(loss.detach())

    def write(self, **figures: Any) -> None:
        """A row of the curve: counters, mean losses since the last row, and the figures."""
        self._clock()
        row = {"step": self.step, "hours": round(self.hours, 3), "cpu_minutes": round(self.minutes, 2)}
        row |= {key: round(total / max(1, self._count), 4) for key, total in self._sums.items()} | figures
        self._sums, self._count = {}, 0
        fresh = not self.curve.exists()
        with open(self.curve, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, row)
            if fresh:
                writer.writeheader()
            writer.writerow(row)
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)

    def save(self, *, now: bool = False) -> None:
        if not now and time.monotonic() - self._saved < 60:
            return
        self._clock()
        state = {key: part.state_dict() for key, part in self.parts.items()}
        state["counters"] = (self.step, self.hours, self.minutes)
        torch.save(state, self.path.with_suffix(".tmp"))
        self.path.with_suffix(".tmp").replace(self.path)
        self._saved = time.monotonic()

    def end(self, done: bool) -> None:
        self.save(now=True)
        mark = self.path.with_suffix(".done")
        mark.touch() if done else mark.unlink(missing_ok=True)

    def _clock(self) -> None:
        """CPU time, not wall time: on a shared machine the latter says nothing."""
        spent, self._cpu = time.process_time() - self._cpu, time.process_time()
        self.minutes += spent / 60
