"""Requests that are cancelled or late, at every point: nothing stays held, and other requests do not change."""

from __future__ import annotations

import asyncio
import io
import threading
import time

import pytest

from seamless_engine import (
    AsyncEngine,
    AudioError,
    DeadlineError,
    DecodingParams,
    Engine,
    EngineConfig,
    Request,
    Result,
)
from seamless_engine.job import Job, Stage
from support.async_engine import LONG, PATIENCE, Checkpoint, Reading, Steps, answered, run, sentence, until
from support.callers import assert_free
from support.parity import TEXTS, same


def test_cancelling_a_task_at_any_step_frees_its_request(checkpoint: Checkpoint) -> None:
    options = EngineConfig(max_synthesis_tokens=10_000)  # so that a synthesis pass waits for more requests
    engine = Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["t2tt", "t2st"], options=options)
    victim = Request("t2st", "fra", text=TEXTS[0], src_lang="eng", params=DecodingParams(num_beams=3, max_new_tokens=4))
    others = [sentence(i, LONG) for i in range(1, 4)]
    expected = engine.generate(others)
    scheduler, blocks = engine.core.scheduler, engine.core.runner.blocks
    stages = set()

    async def cancelled_before(step: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            steps = Steps(engine, patch)
            steps.stop_before(step)
            async with AsyncEngine(engine) as shared:
                rest = [asyncio.create_task(answered(shared, request)) for request in others]
                task = asyncio.create_task(answered(shared, victim))
                await steps.stopped()
                held = [*scheduler.waiting, *scheduler.decoding, *scheduler.synthesizing]
                found = [job for job in held if job.request == victim]
                stages.add(found[0].stage if found else None)
                task.cancel()
                await asyncio.wait([task])
                assert task.cancelled() == bool(found) or not found

                def gone(now: int) -> None:
                    if now == step and found:
                        assert found[0].stage is Stage.FINISHED and found[0].serial not in blocks.blocks_of

                steps.after = gone
                steps.go()
                assert all(same(a, b) for a, b in zip(expected, await asyncio.gather(*rest), strict=True))
        assert_free(engine)

    async def main() -> None:
        for step in range(24):
            await cancelled_before(step)

    run(main())
    assert {Stage.DECODING, Stage.SYNTHESIZING, None} <= stages


def test_a_request_cancelled_before_the_core_never_runs(engine: Engine, reading: Reading, steps: Steps) -> None:
    requests = [sentence(i, id=i) for i in range(8)]
    given_up = (5, 0, 2, 7)  # parked, being read, queued, parked
    ran: set[str | int | None] = set()
    steps.after = lambda step: ran.update(job.request.id for job in engine.core.scheduler.decoding)

    async def main() -> None:
        async with AsyncEngine(engine, max_queue=4, readers=1) as shared:
            tasks = [asyncio.create_task(answered(shared, request)) for request in requests]
            await until(lambda: len(reading.begun) == 1 and len(shared.intake.backlog) == 4)
            for number in given_up:
                tasks[number].cancel()
            await asyncio.wait([tasks[number] for number in given_up])
            assert len(shared.intake.in_flight) == 4 and not shared.intake.backlog  # the places went to the next
            reading.go()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [isinstance(result, Result) for result in results] == [i not in given_up for i in range(8)]

    run(main())
    assert ran == {1, 3, 4, 6} == {int(request.id or 0) for request in reading.begun} - {0}


def test_a_request_can_be_cancelled_while_it_waits_ready_for_the_core(checkpoint: Checkpoint) -> None:
    engine = Engine.from_pretrained(
        checkpoint(0), device="cpu", tasks=["t2tt"], options=EngineConfig(max_num_seqs=2, max_encoder_tokens=8)
    )

    async def main() -> None:
        with pytest.MonkeyPatch.context() as patch:
            steps = Steps(engine, patch)
            steps.stop_before(1)
            async with AsyncEngine(engine) as shared:
                tasks = [asyncio.create_task(answered(shared, sentence(i, LONG))) for i in range(6)]
                await steps.stopped()
                await until(lambda: shared.intake.ready)
                ready = list(shared.intake.ready)[0].request
                victim = next(i for i in range(6) if ready.text == TEXTS[i])
                tasks[victim].cancel()
                await asyncio.wait([tasks[victim]])
                assert ready not in [handle.request for handle in shared.intake.in_flight]
                steps.go()
                results = await asyncio.gather(*tasks, return_exceptions=True)
                assert [isinstance(result, Result) for result in results] == [i != victim for i in range(6)]

    run(main())
    assert_free(engine)


def test_cancelling_an_answer_twice_affects_no_other(engine: Engine, steps: Steps) -> None:
    async def main() -> None:
        steps.stop_before(2)
        async with AsyncEngine(engine) as shared:
            answer, other = await shared.submit(sentence(0, LONG)), await shared.submit(sentence(1, LONG))
            await steps.stopped()
            assert answer.cancel() and not answer.cancel()
            steps.go()
            with pytest.raises(asyncio.CancelledError):
                await answer
            assert (await other).error is None
            assert not other.cancel()

    run(main())


def test_cancelling_generate_frees_all_its_requests(engine: Engine, steps: Steps) -> None:
    async def main() -> None:
        steps.stop_before(3)
        async with AsyncEngine(engine, max_queue=3) as shared:
            task = asyncio.create_task(shared.generate([sentence(i, LONG) for i in range(9)]))
            await steps.stopped()
            task.cancel()
            await asyncio.wait([task])
            steps.go()
            await until(lambda: not shared.intake.in_flight)
            assert steps.count == 4  # that step was the last one

    run(main())


def test_a_request_without_time_left_is_never_read(engine: Engine, reading: Reading) -> None:
    async def main() -> None:
        async with AsyncEngine(engine, readers=1) as shared:
            first = await shared.submit(sentence(0))
            await until(lambda: reading.begun)
            late = await answered(shared, sentence(1, timeout=0.0))
            assert late.finish_reason == "cancelled"
            assert str(late.error) == "the request was not finished within its timeout of 0 s"
            reading.go()
            assert (await first).error is None
        assert len(reading.begun) == 1

    run(main())


def test_timeout_counts_the_wait_in_the_backlog(engine: Engine, reading: Reading) -> None:
    async def main() -> None:
        async with AsyncEngine(engine, max_queue=1) as shared:
            first = await shared.submit(sentence(0))
            submitted = time.perf_counter()
            patient = asyncio.create_task(answered(shared, sentence(2, timeout=1e6)))
            late = await answered(shared, sentence(1, timeout=0.05))
            assert not first.done() and isinstance(late.error, DeadlineError)
            waited = time.perf_counter() - submitted
            reading.go()
            assert (await first).error is None
            timings = (await patient).timings
            assert timings["total"] >= timings["queued"] >= waited

    run(main())


def test_timeout_during_reading_is_answered_at_once(engine: Engine, reading: Reading, steps: Steps) -> None:
    late, other = sentence(0, timeout=0.05), sentence(1)
    ran: set[str] = set()
    steps.after = lambda step: ran.update(str(job.request.text) for job in engine.core.scheduler.decoding)

    async def main() -> None:
        async with AsyncEngine(engine, readers=1) as shared:
            result = await answered(shared, late)
            reading.go()
            assert (await answered(shared, other)).error is None
            assert isinstance(result.error, DeadlineError) and result.finish_reason == "cancelled"

    run(main())
    assert ran == {other.text}


class Blocks(io.BytesIO):
    """A file whose readers wait until `go`."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.begun = 0
        self._go = threading.Event()

    def read(self, size: int | None = -1) -> bytes:
        self.begun += 1
        assert self._go.wait(PATIENCE)
        return super().read(size)

    def go(self) -> None:
        self._go.set()


def test_submit_returns_at_the_timeout_of_a_blocked_file(checkpoint: Checkpoint) -> None:
    engine, file = Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["asr", "t2tt"]), Blocks(b"RIFF")

    async def main() -> None:
        async with AsyncEngine(engine, readers=1) as shared:
            late = await answered(shared, Request("asr", "fra", audio=file, timeout=0.05))
            assert isinstance(late.error, DeadlineError) and file.begun == 1
            file.go()
            assert (await answered(shared, sentence(0))).error is None

    run(main())
    assert_free(engine)


def test_files_in_the_backlog_are_not_read(checkpoint: Checkpoint) -> None:
    engine = Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["asr", "t2tt"])
    files = [Blocks(b"RIFF") for _ in range(40)]

    async def main() -> None:
        before = threading.active_count()
        async with AsyncEngine(engine, max_queue=2, readers=1) as shared:
            tasks = [asyncio.create_task(answered(shared, Request("asr", "fra", audio=file))) for file in files]
            await until(lambda: files[0].begun)
            assert len(shared.intake.in_flight) == 2 and len(shared.intake.backlog) == 38
            assert threading.active_count() == before + 1 and not any(file.begun for file in files[1:])
            tasks[0].cancel()  # it is being read
            tasks[1].cancel()  # it has a place
            await asyncio.wait(tasks[:2])
            for file in files:
                file.go()
            given_up, other, *results = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(given_up, asyncio.CancelledError) and isinstance(other, asyncio.CancelledError)
            assert all(isinstance(one, Result) and isinstance(one.error, AudioError) for one in results)

    run(main())
    assert not files[1].begun
    assert_free(engine)


def test_timeout_is_kept_at_every_step(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    other = sentence(1, LONG)
    [expected] = engine.generate([other])

    async def late_at(step: int) -> None:
        with monkeypatch.context() as patch:
            steps = Steps(engine, patch)
            late: list[Job] = []

            def overtake(now: int) -> None:
                if now == step:
                    scheduler = engine.core.scheduler
                    late.extend(job for job in (*scheduler.waiting, *scheduler.decoding) if job.deadline)
                    for job in late:
                        job.deadline = 0.0

            steps.before = overtake
            async with AsyncEngine(engine) as shared:
                answer = await shared.submit(sentence(0, LONG, timeout=1e6))
                assert same(expected, await answered(shared, other))
                result = await answer
                assert result.finish_reason == ("cancelled" if late else "length")
                assert isinstance(result.error, DeadlineError) == bool(late)

    async def main() -> None:
        for step in range(0, 24, 4):
            await late_at(step)

    run(main())
