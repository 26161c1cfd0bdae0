"""What bench_load leaves behind: JSON that is whole after every row, two plots, two tables."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.common import print_table
from benchmarks.load_sides import STAGES

_LEVEL = ("task", "lengths", "beams", "at_once")
_NUMBERS = {"RTFx": "rtfx", "tok/s": "tokens_s", "p50 s": "p50_s", "p95 s": "p95_s", "GiB": "peak_gib"}
_HEADER = (*_LEVEL, *_NUMBERS, "of floor")
_THEIRS = ("theirs", *_NUMBERS, "ours is")


class Report:
    """head: what the numbers depend on."""

    def __init__(self, target: Path, head: dict[str, Any]) -> None:
        self.target = target
        self.head = head
        self.rows: list[dict[str, Any]] = []
        target.parent.mkdir(parents=True, exist_ok=True)

    def add(self, row: dict[str, Any], least: dict[str, float] | None) -> None:
        """least: seconds of each stage at least, where they are known."""
        if least and row["status"] == "measured":
            row |= {"floor_s": least, "share": sum(least.values()) / row["wall_s"]}
        self.rows.append(row)
        said = " ".join(str(row[key]) for key in (*_LEVEL, "side", "dtype", "status"))
        print(said + (f"  {row['wall_s']:.3f} s" if "wall_s" in row else ""), flush=True)
        self.target.write_text(json.dumps({**self.head, "rows": self.rows}, indent=1) + "\n", encoding="utf-8")

    def finish(self) -> None:
        """The plots, then the tables."""
        print(f"written: {self.target}")
        try:
            from benchmarks import load_plots

            for path in load_plots.draw(self.levels(), self.head, self.target):
                print(f"written: {path}")
        except ImportError:
            print("no plots: pip install matplotlib")
        print("\nmilliseconds by stage, of all requests of a level")
        print_table(*self._stages())
        print("\n" + "  ".join(f"{key}={value}" for key, value in self.head["machine"].items()))
        print_table(*self._table())

    def levels(self) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Of every level the row of our engine and those of transformers, the fastest first."""
        found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for row in self.rows:
            found.setdefault(tuple(row[key] for key in _LEVEL), []).append(row)
        return [(rows[0], sorted(rows[1:], key=lambda row: row.get("wall_s", float("inf")))) for rows in found.values()]

    def _stages(self) -> tuple[list[str], list[list[Any]]]:
        lines = []
        for ours, theirs in self.levels():
            sides: Iterable[tuple[str, dict[str, float]]] = [
                (row["side"], row["stages_s"]) for row in (ours, *theirs[:1]) if "stages_s" in row
            ]
            if "floor_s" in ours:
                sides = [*sides, ("floor", ours["floor_s"])]
            for side, seconds in sides:
                times = [_milliseconds(seconds.get(stage, 0.0)) for stage in STAGES]
                lines.append([*(ours[key] for key in _LEVEL), side, *times, _milliseconds(sum(seconds.values()))])
        return [*_LEVEL, "side", *STAGES, "all"], lines

    def _table(self) -> tuple[list[str], list[list[Any]]]:
        against = any(theirs for _, theirs in self.levels())
        lines = []
        for ours, theirs in self.levels():
            share = f"{ours['share']:.1%}" if "share" in ours else ""
            line = [*(ours[key] for key in _LEVEL), *_numbers(ours), share]
            if against:
                line += _their_cells(ours, theirs[0]) if theirs else [""] * len(_THEIRS)
            lines.append(line)
        return [*_HEADER, *(_THEIRS if against else ())], lines


def _their_cells(ours: dict[str, Any], theirs: dict[str, Any]) -> list[Any]:
    setting = f"{theirs['dtype']} × {theirs['batch']}" if theirs["batch"] else theirs["dtype"]
    both = "wall_s" in ours and "wall_s" in theirs
    return [setting, *_numbers(theirs), f"× {theirs['wall_s'] / ours['wall_s']:.1f}" if both else ""]


def _numbers(row: dict[str, Any]) -> list[Any]:
    if row["status"] != "measured":
        return [row["status"].split(":")[0], *[""] * (len(_NUMBERS) - 1)]
    cells = [row[key] for key in _NUMBERS.values()]
    return ["" if cell is None else cell for cell in cells]


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}"
