"""Graphs without a GPU."""

from __future__ import annotations

import torch

from seamless_engine.cuda_graphs import GraphCapture, Work


class ReplayedCapture(GraphCapture):
    """Counts what it captures and what is replayed. On a CPU, a replay runs the work again.

    The result is always the same tensor, as that of a graph; it has no value before the first replay.
    """

    def __init__(self) -> None:
        super().__init__()
        self.captured = 0
        self.replayed = 0
        self.replaying = False

    def capture(self, work: Work) -> Work:
        replay = super().capture(work) if torch.cuda.is_available() else _replayed(work)
        self.captured += 1

        def counted() -> torch.Tensor:
            self.replayed += 1
            self.replaying = True
            try:
                return replay()
            finally:
                self.replaying = False

        return counted


def _replayed(work: Work) -> Work:
    result: list[torch.Tensor] = []

    def replay() -> torch.Tensor:
        made = work()
        if not result:
            result.append(torch.empty_like(made))
        return result[0].copy_(made)

    return replay


class FailingCapture(GraphCapture):
    """No work can be captured."""

    def __init__(self) -> None:
        super().__init__()
        self.tried = 0

    def capture(self, work: Work) -> Work:
        self.tried += 1
        raise torch.AcceleratorError("not permitted")
