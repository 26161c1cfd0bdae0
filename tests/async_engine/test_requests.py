"""Requests through an AsyncEngine: the results of Engine, one owner, bounded, none disturbed by another."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any

import pytest

from seamless_engine import (
    AsyncEngine,
    CapacityError,
    DecodingParams,
    Engine,
    EngineConfig,
    InputError,
    Request,
    Result,
    UnknownLanguageError,
    UsageError,
)
from seamless_engine.job import Job
from support.async_engine import LONG, PATIENCE, Checkpoint, Reading, Steps, answered, run, sentence, until
from support.callers import assert_free
from support.parity import random_request, same


def test_results_of_every_task_equal_those_of_the_engine(checkpoint: Checkpoint) -> None:
    engine = Engine.from_pretrained(checkpoint(2), device="cpu")
    requests = [random_request(random.Random(i), engine.languages("s2st")) for i in range(16)]
    expected = engine.generate(requests)

    async def main() -> None:
        async with AsyncEngine(engine) as shared:
            together = await shared.generate(requests)
            streamed = {result.id: result async for result in shared.stream(requests)}
            single = await asyncio.gather(*(answered(shared, request) for request in requests))
        for found in (together, [streamed[i] for i in range(len(requests))], single):
            assert all(same(a, b) for a, b in zip(expected, found, strict=True))

    run(main())
    assert_free(engine)


def test_hundreds_of_tasks_share_the_engine(engine: Engine) -> None:
    requests = [sentence(i, DecodingParams(max_new_tokens=2 + i % 4, num_beams=1 + i % 3), id=i) for i in range(400)]
    expected = engine.generate(requests)

    async def main() -> list[Result]:
        async with AsyncEngine(engine, max_queue=50) as shared:
            return await asyncio.gather(*(answered(shared, request) for request in requests))

    found = run(main())
    assert [result.id for result in found] == list(range(400))
    assert all(same(a, b) for a, b in zip(expected, found, strict=True))


def test_event_loops_of_several_threads_share_the_engine(engine: Engine) -> None:
    requests = [sentence(i) for i in range(30)]
    expected = engine.generate(requests)
    shared = AsyncEngine(engine, max_queue=7)
    found: dict[int, list[Result]] = {}

    async def main(number: int) -> None:
        if number % 2:
            found[number] = await shared.generate(requests)
        else:
            found[number] = await asyncio.gather(*(answered(shared, request) for request in requests))

    threads = [threading.Thread(target=lambda number=number: run(main(number))) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    run(shared.close())
    assert len(found) == 4
    assert all(same(a, b) for results in found.values() for a, b in zip(expected, results, strict=True))


def test_ids_are_the_requests_own_or_count_what_was_submitted(engine: Engine) -> None:
    async def main() -> list[str | int]:
        async with AsyncEngine(engine) as shared:
            answers = [await shared.submit(sentence(i, id="mine" if i == 1 else None)) for i in range(3)]
            return [(await answer).id for answer in answers]

    assert run(main()) == [0, "mine", 2]


def test_submit_and_generate_raise_usage_errors_before_any_work(engine: Engine, steps: Steps) -> None:
    wrong = Request("t2tt", "xxx", text="a", src_lang="eng")

    async def main() -> None:
        async with AsyncEngine(engine) as shared:
            with pytest.raises(UsageError, match="xxx"):
                await shared.submit(wrong)
            with pytest.raises(UsageError, match="xxx"):
                await shared.generate([sentence(0), wrong])

    run(main())
    assert steps.count == 0


def test_stream_isolates_failing_requests(engine: Engine) -> None:
    empty = Request("t2tt", "fra", text=" ", src_lang="eng")
    long = sentence(0, DecodingParams(max_new_tokens=2000))
    wrong = Request("t2tt", "xxx", text="a", src_lang="eng")
    good = [sentence(i) for i in range(4)]
    expected = engine.generate(good)

    async def main() -> list[Result]:
        async with AsyncEngine(engine) as shared:
            mixed = [good[0], empty, good[1], long, good[2], wrong, good[3]]
            results = [result async for result in shared.stream(mixed)]
        return sorted(results, key=lambda result: result.id)

    found = run(main())
    nothing = type(None)
    assert [type(result.error) for result in found] == [
        *(nothing, InputError, nothing, CapacityError, nothing, UnknownLanguageError, nothing)
    ]
    assert all(same(a, b) for a, b in zip(expected, found[::2], strict=True))


def test_reading_delays_neither_the_event_loop_nor_other_requests(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = engine.preprocessor.prepare
    slow, arrived = sentence(0), threading.Event()

    def waits(request: Request, *others: Any) -> list[Job]:
        assert request != slow or arrived.wait(PATIENCE)  # until the event loop has seen the other's result
        return prepare(request, *others)

    monkeypatch.setattr(engine.preprocessor, "prepare", waits)

    async def main() -> None:
        async with AsyncEngine(engine, readers=2) as shared:
            first = await shared.submit(slow)
            assert (await answered(shared, sentence(1))).error is None
            assert not first.done()
            arrived.set()
            assert (await first).error is None

    run(main())


@pytest.mark.parametrize("max_queue", [1, 2, 5])
def test_max_queue_bounds_requests_in_flight_in_order(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, max_queue: int
) -> None:
    steps = Steps(engine, monkeypatch)
    order: list[int] = []

    async def main() -> None:
        async with AsyncEngine(engine, max_queue=max_queue) as shared:

            def bounded(step: int) -> None:
                scheduler = engine.core.scheduler
                inside = len(scheduler.waiting) + len(scheduler.decoding) + len(scheduler.synthesizing)
                assert inside <= len(shared.intake.in_flight) <= max_queue

            steps.before = steps.after = bounded

            async def taken(number: int) -> Result:
                answer = await shared.submit(sentence(number))
                order.append(number)
                return await answer

            results = await asyncio.gather(*(taken(number) for number in range(20)))
            assert not any(result.error for result in results)

    run(main())
    assert order == list(range(20))


def test_readers_stay_one_encoder_pass_ahead_of_the_core(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = EngineConfig(
        max_num_seqs=2, max_encoder_tokens=8
    )  # every sentence has more rows, so that one fills a pass
    engine = Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["t2tt"], options=options)
    steps, reading = Steps(engine, monkeypatch), Reading(engine, monkeypatch)
    reading.go()
    steps.stop_before(3)

    async def main() -> None:
        async with AsyncEngine(engine, max_queue=20, readers=2) as shared:
            answers = [await shared.submit(sentence(i % 3, LONG)) for i in range(20)]
            await steps.stopped()
            await until(lambda: shared.intake.ready)
            await asyncio.sleep(0.05)
            assert len(reading.begun) <= 5  # one decodes, one waits in the loop, one is ready, two readers may be late
            steps.go()
            assert not any([(await answer).error for answer in answers])

    run(main())
    assert_free(engine)


def test_the_engine_thread_looks_once_at_many_new_requests(
    engine: Engine, reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with AsyncEngine(engine, max_queue=100, readers=1) as shared:
            looks, free = [], threading.Event()
            expire = shared.intake.expire
            monkeypatch.setattr(shared.intake, "expire", lambda now: looks.append(now) or expire(now))
            engine.thread.post(lambda: free.wait(PATIENCE))
            answers = [await shared.submit(sentence(i, timeout=PATIENCE)) for i in range(100)]
            free.set()
            await asyncio.to_thread(engine.thread.call, lambda: None)
            assert len(looks) <= 2
            reading.go()
            assert all(result.error is None for result in await asyncio.gather(*answers))

    run(main())


def test_submit_waits_for_room_and_not_for_the_result(engine: Engine, reading: Reading) -> None:
    async def main() -> None:
        async with AsyncEngine(engine, max_queue=3) as shared:
            answers = [await shared.submit(sentence(i)) for i in range(3)]
            fourth = asyncio.create_task(shared.submit(sentence(3)))
            await asyncio.sleep(0.05)
            assert not fourth.done() and not any(answer.done() for answer in answers)
            reading.go()
            assert (await (await fourth)).error is None
            await asyncio.gather(*answers)

    run(main())


def test_an_engine_serves_one_async_engine_at_a_time(engine: Engine) -> None:
    [expected] = engine.generate([sentence(0)])
    half_read = engine.stream([sentence(0), sentence(1, LONG)])
    next(half_read)
    with pytest.raises(UsageError, match="in use"):
        AsyncEngine(engine)
    half_read.close()

    async def main() -> None:
        async with AsyncEngine(engine) as shared:
            with pytest.raises(UsageError, match="in use"):
                AsyncEngine(engine)
            with pytest.raises(UsageError, match="belongs to an AsyncEngine"):
                engine.generate([sentence(0)])
            assert same(expected, await answered(shared, sentence(0)))

    run(main())
    assert same(expected, engine.generate([sentence(0)])[0])


@pytest.mark.parametrize("setting", ["max_queue", "readers"])
def test_a_setting_below_one_is_refused(engine: Engine, setting: str) -> None:
    with pytest.raises(UsageError, match=f"{setting} must be at least 1, not 0"):
        AsyncEngine(engine, **{setting: 0})


def test_an_idle_engine_sleeps_and_wakes_for_a_request(engine: Engine, steps: Steps) -> None:
    async def main() -> None:
        async with AsyncEngine(engine) as shared:
            await shared.generate([sentence(0)])
            turns = 0
            collect = shared.intake.expire

            def counted(now: float) -> float | None:
                nonlocal turns
                turns += 1
                return collect(now)

            shared.intake.expire = counted  # type: ignore[method-assign]
            at = steps.count
            await asyncio.sleep(0.2)
            assert steps.count == at and turns < 5  # those on its way to sleep
            assert (await answered(shared, sentence(1))).error is None

    run(main())
