"""Streams of an AsyncEngine: bounded, closed early, fed by anything, even by each other."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from seamless_engine import AsyncEngine, Engine, Request
from support.async_engine import LONG, Steps, answered, run, sentence, until
from support.parity import same


async def drawn(requests: list[Request], wait: Callable[[int], Awaitable[object]]) -> AsyncIterator[Request]:
    for number, request in enumerate(requests):
        await wait(number)
        yield request


def test_stream_takes_an_asynchronous_iterable(engine: Engine) -> None:
    requests = [sentence(i) for i in range(12)]
    expected = engine.generate(requests)

    async def main() -> None:
        got = asyncio.Semaphore(3)  # of twelve; the others wait until results have come

        async with AsyncEngine(engine, max_queue=4) as shared:
            results = {}
            async for result in shared.stream(drawn(requests, lambda number: got.acquire())):
                results[result.id] = result
                got.release()
        assert all(same(expected[i], results[i]) for i in range(12))

    run(main())


@pytest.mark.parametrize("max_queue", [1, 4])
def test_stream_pulls_no_more_than_max_queue(engine: Engine, max_queue: int) -> None:
    count = 0

    def endless() -> Iterator[Request]:
        nonlocal count
        while True:
            count += 1
            yield sentence(count)

    async def main() -> None:
        async with AsyncEngine(engine, max_queue=max_queue) as shared:
            async with contextlib.aclosing(shared.stream(endless())) as results:
                for finished in range(1, 30):
                    assert (await anext(results)).error is None
                    if finished % 10 == 0:  # a consumer that is slow
                        least = finished - 1 + max_queue
                        await until(lambda least=least: count >= least and not shared.intake.in_flight)
                        assert count <= least + 1
                    assert count <= finished + max_queue
            await until(lambda: not shared.intake.in_flight)

    run(main())


def test_stream_pulls_few_requests_before_its_first_result(engine: Engine) -> None:
    given: list[Request] = []

    async def main() -> None:
        async with AsyncEngine(engine) as shared:
            requests = (given.append(request) or request for request in map(sentence, range(100)))
            results = shared.stream(requests)
            await anext(results)
            assert len(given) <= 8
            assert len([result async for result in results]) == 99

    run(main())


def test_closing_a_stream_cancels_its_requests(engine: Engine, steps: Steps) -> None:
    async def main() -> None:
        async with AsyncEngine(engine) as shared:
            results = shared.stream([sentence(0), *(sentence(i, LONG) for i in range(1, 9))])
            await anext(results)
            at = steps.count
            await results.aclose()
            await until(lambda: not shared.intake.in_flight)
            assert steps.count <= at + 3 < 24

    run(main())


def test_dropping_a_stream_cancels_its_requests(engine: Engine) -> None:
    async def main() -> None:
        async with AsyncEngine(engine) as shared:
            results = shared.stream([sentence(0), *(sentence(i, LONG) for i in range(1, 9))])
            await anext(results)
            del results
            gc.collect()
            await until(lambda: not shared.intake.in_flight)

    run(main())


def test_stream_raises_what_its_iterable_raises(engine: Engine) -> None:
    async def broken() -> AsyncIterator[Request]:
        yield sentence(0, LONG)
        raise OSError("no such manifest")

    async def main() -> None:
        async with AsyncEngine(engine) as shared:
            with pytest.raises(OSError, match="no such manifest"):
                async for _ in shared.stream(broken()):
                    pass
            await until(lambda: not shared.intake.in_flight)

    run(main())


@pytest.mark.parametrize("max_queue", [1, 3])
def test_streams_can_feed_each_other_through_one_engine(engine: Engine, max_queue: int) -> None:
    requests = [sentence(i) for i in range(10)]
    expected = engine.generate(requests)

    async def main() -> None:
        async with AsyncEngine(engine, max_queue=max_queue) as shared:

            async def second() -> AsyncIterator[Request]:
                async for result in shared.stream(requests):
                    yield requests[int(result.id)]

            found = []
            async for result in shared.stream(second()):
                assert (await answered(shared, sentence(0))).error is None  # and in between
                found.append(result)
        assert sorted(result.text for result in found) == sorted(result.text for result in expected)

    run(main())
