"""run.png: what a job did over time, and where its time went."""

from __future__ import annotations

from collections.abc import Sequence

from seamless_engine.jobs.progress import Counts


def plot(path: str, samples: Sequence[tuple[float, int, float]], counts: Counts) -> bool:
    """Write the picture. Returns False where matplotlib is not installed.

    samples: of `Progress`. Raises OSError.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(3, 1))
    has_audio = counts.audio_seconds > 0
    pairs = [(before, after) for before, after in zip(samples, samples[1:], strict=False) if after[0] > before[0]]
    amounts = [(after[2] - before[2]) if has_audio else (after[1] - before[1]) for before, after in pairs]
    left.plot(
        [after[0] for _, after in pairs],
        [amount / (after[0] - before[0]) for amount, (before, after) in zip(amounts, pairs, strict=True)],
    )
    left.set(xlabel="seconds", ylabel="seconds of audio for each second" if has_audio else "items for each second")
    left.set(title=f"{counts.results} results, {counts.errors} errors", ylim=(0, None))
    stages = {name: seconds for name, seconds in counts.stages.items() if seconds}
    total = sum(stages.values()) or 1.0
    bottom = 0.0
    for name, seconds in stages.items():
        right.bar([0], [seconds / total], bottom=bottom, label=f"{name} {seconds / total:.0%}")
        bottom += seconds / total
    right.set(title="time of requests", xticks=[], ylim=(0, 1))
    if stages:
        right.legend()
    figure.savefig(path, dpi=120)
    return True
