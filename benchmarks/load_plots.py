"""The two plots of bench_load: throughput against requests at once, and where the time of a request goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from benchmarks.load_sides import STAGES

Levels = list[tuple[dict[str, Any], list[dict[str, Any]]]]


def draw(levels: Levels, head: dict[str, Any], target: Path) -> Iterator[Path]:
    """Writes the plots beside `target`, one panel for each task; a plot without a number is left out."""
    title = f"{head['machine']['device']}, {head['dtype']}"
    tasks = list(dict.fromkeys(ours["task"] for ours, _ in levels))
    for name, panel in (("throughput", _throughput), ("stages", _stages)):
        figure, axes = pyplot.subplots(1, len(tasks), figsize=(5.0 * len(tasks), 4.5), squeeze=False)
        drawn = [
            panel(axis, [pair for pair in levels if pair[0]["task"] == task])
            for axis, task in zip(axes[0], tasks, strict=True)
        ]
        if any(drawn):
            for axis, task in zip(axes[0], tasks, strict=True):
                axis.set_title(task)
            figure.suptitle(title)
            figure.tight_layout()
            path = target.with_name(f"{target.stem}-{name}.png")
            figure.savefig(path, dpi=110)
            yield path
        pyplot.close(figure)


def _throughput(axis: Any, levels: Levels) -> bool:
    """A line for each side, kind of lengths and number of beams."""
    lines: dict[tuple[str, str, int], list[tuple[int, float]]] = {}
    speech = levels[0][0]["task"].startswith("s2")
    for ours, theirs in levels:
        for row in (ours, *theirs[:1]):
            if row["status"] == "measured":
                key = row["side"], row["lengths"], row["beams"]
                lines.setdefault(key, []).append((row["at_once"], row["rtfx"] if speech else row["tokens_s"]))
    for (side, lengths, beams), points in lines.items():
        places, values = zip(*sorted(points), strict=True)
        colour, style = "C0" if side == "ours" else "C1", "-" if lengths == "fixed" else "--"
        label = f"{side}, {lengths}, beams {beams}"
        axis.plot(places, values, style, color=colour, marker="o" if beams > 1 else "x", label=label)
    axis.set(xscale="log", yscale="log", xlabel="requests at once")
    counts = sorted({ours["at_once"] for ours, _ in levels})
    axis.set_xticks(counts, counts)
    axis.minorticks_off()
    axis.set_ylabel("seconds of audio in a second" if speech else "tokens a second")
    if lines:
        axis.legend(fontsize="x-small")
    return bool(lines)


def _stages(axis: Any, levels: Levels) -> bool:
    """A bar for each side and number at once, of the first kind of requests: milliseconds a request."""
    first = levels[0][0]
    alike = [pair for pair in levels if all(pair[0][key] == first[key] for key in ("lengths", "beams"))]
    rows = [row for ours, theirs in alike for row in (ours, *theirs[:1]) if row["status"] == "measured"]
    rows.sort(key=lambda row: row["at_once"])
    labels = [f"{row['side'].replace('transformers', 'theirs')}\n{row['at_once']}" for row in rows]
    base = [0.0] * len(rows)
    for stage in STAGES:
        heights = [1e3 * row["stages_s"][stage] / row["at_once"] for row in rows]
        axis.bar(range(len(rows)), heights, bottom=base, label=stage)
        base = [low + height for low, height in zip(base, heights, strict=True)]
    axis.set_xticks(range(len(rows)), labels, fontsize="x-small")
    axis.set_ylabel(f"ms a request ({first['lengths']}, beams {first['beams']})")
    if rows:
        axis.legend(fontsize="x-small")
    return bool(rows)
