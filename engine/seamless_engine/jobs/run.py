"""The loop of a job: entries → items → requests that the engine pulls → results and errors on the disk."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from seamless_engine.errors import AudioError, InputError
from seamless_engine.jobs.inputs import Input
from seamless_engine.jobs.interruption import Interruption
from seamless_engine.jobs.items import Check, Defaults, Item, Rejected, items_of, kind_of
from seamless_engine.jobs.output import Output
from seamless_engine.jobs.progress import Counts, Progress
from seamless_engine.request import Request, Result

if TYPE_CHECKING:
    from seamless_engine import Engine

_STAGES = ("encode", "decode", "synthesize")


def read_items(
    inputs: Sequence[Input], defaults: Defaults, check: Check, shard: tuple[int, int], counts: Counts
) -> Iterator[Item | Rejected]:
    """The items of a shard, in the order of the inputs, one at a time. Raises InputError if an input ends early."""
    for one in inputs:
        try:
            for entry in one.read():
                counts.entries += 1
                yield from items_of(entry, defaults, check, shard)
        except OSError as error:
            raise InputError(f"an input cannot be read any more: {error}") from None


def limited(items: Iterator[Item | Rejected], limit: int | None) -> Iterator[Item | Rejected]:
    """The first so many items."""
    return items if limit is None else itertools.islice(items, limit)


class Job:
    """One run over the items. What is done already is left out; an item that is wrong is an error like any other.

    counts: of this run.
    """

    def __init__(
        self,
        items: Iterator[Item | Rejected],
        output: Output,
        counts: Counts,
        progress: Progress,
        tell: Callable[[str], object],
    ) -> None:
        """tell: is called with what the user should know."""
        self.counts = counts
        self._interruption = Interruption(lambda name: tell(self._stopping(name)))
        self._items = items
        self._output = output
        self._progress = progress
        self._in_flight: dict[int, Item] = {}
        self._numbers = itertools.count()

    @property
    def signal(self) -> int | None:
        """That ended the run early."""
        return self._interruption.signal

    def run(self, load: Callable[[], Engine]) -> None:
        """Answer all items. The model is loaded when the first item needs it.

        Raises OutputError, and what `load` raises.
        """
        waiting = self._waiting()
        first = next(waiting, None)
        if first is not None:
            started = time.perf_counter()
            engine = load()
            self.counts.load_seconds = time.perf_counter() - started
            self._progress.start()
            with self._interruption:
                for result in engine.stream(self._requests(itertools.chain([first], waiting))):
                    self._answered(result)
            engine.close()
        self._progress.end(self.counts)
        self._output.sync()

    def _waiting(self) -> Iterator[Item]:
        """The items that the engine has to answer."""
        for item in self._items:
            if self.signal is not None:
                return
            status = self._output.status(item)
            if status == "duplicate":
                message = f"an entry before has the id {item.id!r} too, for this task and language"
                item = Rejected(item.place, item.task, item.tgt_lang, item.place, item.fields, "duplicate_id", message)
                status = self._output.status(item)
            if status in ("done", "changed"):
                self.counts.done += 1
                self.counts.changed += status == "changed"
            elif isinstance(item, Rejected):
                self._output.write_rejected(item)
                self.counts.errors += 1
            else:
                yield item
            self._progress.update(self.counts)

    def _requests(self, items: Iterator[Item]) -> Iterator[Request]:
        for item in items:
            if item.part is not None:
                try:
                    item.request.audio = item.part.read()
                except AudioError as error:
                    self._output.write_error(item, kind_of(error), str(error))
                    self.counts.errors += 1
                    continue
            item.request.id = next(self._numbers)
            self._in_flight[item.request.id] = item
            yield item.request

    def _answered(self, result: Result) -> None:
        assert isinstance(result.id, int)
        item = self._in_flight.pop(result.id)
        counts = self.counts
        if result.error is not None:
            self._output.write_error(item, kind_of(result.error), str(result.error))
            counts.errors += 1
        else:
            self._output.write_result(item, result)
            counts.results += 1
            counts.audio_seconds += result.audio_seconds or 0.0
            counts.tokens += len(result.tokens)
            if result.audio is not None and result.sampling_rate is not None:
                counts.speech_seconds += len(result.audio) / result.sampling_rate
            for stage in _STAGES:
                counts.stages[stage] = counts.stages.get(stage, 0.0) + result.timings.get(stage, 0.0)
        self._progress.update(counts)

    def _stopping(self, name: str) -> str:
        return (
            f"{name}: no more items are taken, and the {len(self._in_flight)} in work are finished. Once more stops at "
            "once; either way the same command goes on from here"
        )
