"""Which searches have ended: read from the device some steps after the step that ended them."""

from __future__ import annotations

from collections import deque

import torch

from seamless_engine.job import Job, Stage
from seamless_engine.search.schema import Status
from seamless_kernels.transfer import Download


class CompletionQueue:
    """delay: how many steps may be launched after the one whose status is read, before the host waits for it.

    The parts of a step are pushed one by one; `pop` ends the step.
    """

    def __init__(self, delay: int) -> None:
        self.delay = delay
        self._step = 0
        self._parts: deque[tuple[int, list[tuple[Job, int]], Download]] = deque()

    def push(self, searches: list[tuple[Job, int]], status: torch.Tensor) -> None:
        """status int32 [at least len(searches)] as the part that was just launched leaves it; a tensor of its own."""
        self._parts.append((self._step, searches, Download(status)))

    def pop(self, drain: bool) -> list[tuple[Job, Status]]:
        """Requests whose last search is now known to have ended, and those that broke. `drain` waits for every step."""
        ended = []
        last = self._step - (0 if drain else self.delay)
        self._step += 1
        while self._parts and self._parts[0][0] <= last:
            _, searches, status = self._parts.popleft()
            for (job, search), value in zip(searches, status.wait().tolist(), strict=False):
                # The request may have left since, and its beams may be another's: it is not reported again.
                if value == Status.SEARCHING or job.stage is not Stage.DECODING or search not in job.searching:
                    continue
                job.searching.remove(search)
                if value == Status.BROKEN:
                    job.searching.clear()
                    ended.append((job, Status.BROKEN))
                elif not job.searching:
                    ended.append((job, Status.OVER))
        return ended
