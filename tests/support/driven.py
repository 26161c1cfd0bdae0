"""The engine's loop turn by turn: requests arrive when the test says so, and are cancelled when it says so."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from seamless_engine import DecodingParams, Engine, Request, Result
from seamless_engine.job import Job
from support.parity import same


def answer(
    engine: Engine,
    requests: Sequence[Request],
    *,
    arrivals: Sequence[int] | None = None,
    cancelled: Mapping[int, int] | None = None,
    meanwhile: Callable[[int, dict[int, Job]], None] | None = None,
) -> list[Result]:
    """One result each, in the order of `requests`.

    arrivals: the turn before which each arrives; all before the first if not given. cancelled: requests, by index, and
    the turn before which they are cancelled. meanwhile(turn, jobs by index) is called before each turn.
    """
    jobs: dict[int, Job] = {}
    index: dict[Job, int] = {}
    results: dict[int, Result] = {}
    outbox: deque[Job] = deque()
    coming = sorted(range(len(requests)), key=lambda i: arrivals[i] if arrivals else 0)
    turn = 0
    while len(results) < len(requests):
        while coming and (not arrivals or arrivals[coming[0]] <= turn):
            i = coming.pop(0)
            request = requests[i]
            result = Result(i, request.task, request.tgt_lang)
            [jobs[i]] = engine.preprocessor.prepare(request, request.params or DecodingParams(), result)
            jobs[i].outbox = outbox
            index[jobs[i]] = i
            engine.core.submit(jobs[i])
        for i, when in (cancelled or {}).items():
            if when == turn and i in jobs:
                jobs[i].cancelled = True
        if meanwhile is not None:
            meanwhile(turn, jobs)
        engine.core.step()
        while outbox:
            job = outbox.popleft()
            assert index[job] not in results, "a request was answered twice"
            results[index[job]] = job.result
        turn += 1
        assert turn < 10_000, f"{len(requests) - len(results)} requests are not answered"
    assert not engine.core.busy
    blocks = engine.core.runner.blocks
    blocks.check_integrity()
    assert blocks.free_blocks == blocks.num_blocks and blocks.free_seqs == blocks.num_seqs
    return [results[i] for i in range(len(requests))]


def all_same(a: Sequence[Result], b: Sequence[Result]) -> bool:
    """Equal to the last bit, every hypothesis of every result."""
    return all(one.error is None and same_answer(one, other) for one, other in zip(a, b, strict=True))


def same_answer(a: Result, b: Result) -> bool:
    if not same(a, b) or len(a.n_best) != len(b.n_best):
        return False
    return all(
        np.array_equal(x, y) if isinstance(x, np.ndarray) else x == y
        for one, other in zip(a.n_best, b.n_best, strict=True)
        for x, y in zip(vars(one).values(), vars(other).values(), strict=True)
    )
