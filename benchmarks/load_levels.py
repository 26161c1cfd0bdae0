"""What bench_load asks for: so many requests at once, of one length or of the ragged trace."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from benchmarks.workload import SECONDS, TOKENS, Item, fixed_items, ragged_items
from seamless_engine.config import ModelConfig


@dataclass(frozen=True)
class Level:
    """So many requests of one kind at once."""

    task: str
    lengths: str
    beams: int
    at_once: int


def levels(tasks: list[str], lengths: list[str], beams: list[int], at_once: list[int]) -> Iterator[Level]:
    """The most telling first: one length before ragged ones, many beams before one, speech before text."""
    for num_beams in sorted(beams, reverse=True):
        for kind in lengths:
            for task in tasks:
                for count in at_once:
                    yield Level(task, kind, num_beams, count)


class Requests:
    """What is asked for at each level. scale: of all lengths."""

    def __init__(self, config: ModelConfig, scale: float) -> None:
        self.config = config
        self.scale = scale

    def of(self, level: Level) -> list[Item]:
        if level.lengths == "fixed":
            tokens = round(TOKENS * self.scale)
            return fixed_items(level.task, self.config, level.at_once, SECONDS * self.scale, tokens)
        trace = ragged_items(level.task, self.config)
        return [self._scaled(trace[i % len(trace)]) for i in range(level.at_once)]

    def _scaled(self, item: Item) -> Item:
        if self.scale == 1.0:
            return item
        wave, ids = item.waveform, item.ids
        return replace(
            item,
            waveform=None if wave is None else wave[: math.ceil(len(wave) * self.scale)],
            new_tokens=max(round(item.new_tokens * self.scale), 4),
            ids=None if ids is None else [*ids[: math.ceil(len(ids) * self.scale)], ids[-1]],
        )
