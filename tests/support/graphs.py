"""A graph without a GPU."""

from __future__ import annotations

import torch

from seamless_engine.cuda_graphs import Work


def played_back(work: Work) -> Work:
    """A recorder without a GPU: runs the work as it was recorded, into one tensor that holds nonsense in between."""
    result: list[torch.Tensor] = []

    def replay() -> torch.Tensor:
        status = work()
        if not result:
            result.append(torch.empty_like(status))
        return result[0].copy_(status)

    return replay
