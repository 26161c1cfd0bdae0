"""Rows of levels as JSON that is complete after every row, and two tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.engine.sides import STAGES
from benchmarks.report import print_facts, print_table

_LEVEL = ("task", "lengths", "beams", "at_once")
_NUMBERS = {"s": "wall_s", "RTFx": "rtfx", "tok/s": "tokens_s", "p50 s": "p50_s", "p95 s": "p95_s", "GiB": "peak_gib"}
_RATIOS = ("of floor", "ours is", "by cpu")


class Report:
    """head: what the numbers depend on."""

    def __init__(self, target: Path, head: dict[str, Any]) -> None:
        self.target, self.head = target, head
        self.rows: list[dict[str, Any]] = []
        target.parent.mkdir(parents=True, exist_ok=True)

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        known = " ".join(str(row[key]) for key in (*_LEVEL, "side", "setting", "status"))
        print(known + (f"  {row['wall_s']:.3f} s" if "wall_s" in row else ""), flush=True)
        self.target.write_text(json.dumps({**self.head, "rows": self.rows}, indent=1) + "\n", encoding="utf-8")

    def finish(self) -> None:
        """The tables. "ours is": how many times as fast as a side, by wall and by processor time."""
        stages: list[list[Any]] = []
        lines: list[list[Any]] = []
        ours = {_level(row): row for row in self.rows if row["side"] == "ours" and "wall_s" in row}
        for row in self.rows:
            level, numbers = _level(row), [row["status"].split(":")[0], *[None] * (len(_NUMBERS) + len(_RATIOS) - 1)]
            if row["status"] == "measured":
                base = ours.get(level)
                ratios = [row[key] / base[key] if base else None for key in ("wall_s", "cpu_s")]
                numbers = [*(row[key] for key in _NUMBERS.values()), row.get("share"), *ratios]
                stages.append([*level, row["side"], *_milliseconds(row["stages_s"])])
            if row is ours.get(level):
                stages.append([*level, "floor", *_milliseconds(row["floor_s"])])
            lines.append([*level, row["side"], row["setting"], *numbers])
        print(f"written: {self.target}\n\nmilliseconds by stage, of all requests of a level")
        print_table((*_LEVEL, "side", *STAGES, "all"), stages)
        print()
        print_facts(self.head["machine"])
        print_table((*_LEVEL, "side", "setting", *_NUMBERS, *_RATIOS), lines)


def _level(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in _LEVEL)


def _milliseconds(stages: dict[str, float]) -> list[str]:
    return [f"{1e3 * seconds:.2f}" for seconds in (*(stages.get(name, 0.0) for name in STAGES), sum(stages.values()))]
