"""An AsyncEngine that is closed, dropped, left by its event loop, or broken: each call gets an answer or an error."""

from __future__ import annotations

import asyncio
import gc
import io
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Iterator

import pytest

from seamless_engine import AsyncEngine, Engine, EngineClosedError, Request, Result
from seamless_engine.intake import Handle
from support.async_engine import LONG, PATIENCE, Checkpoint, Reading, Steps, answered, run, sentence, until
from support.callers import assert_free, beside
from support.parity import same


def test_close_finishes_submitted_requests(engine: Engine, reading: Reading) -> None:
    requests = [sentence(i, LONG) for i in range(6)]

    async def main() -> list[Result]:
        shared = AsyncEngine(engine, max_queue=3)
        tasks = [asyncio.create_task(answered(shared, request)) for request in requests]
        await until(lambda: len(shared.intake.backlog) == 3)
        closing = asyncio.create_task(shared.close())
        await asyncio.sleep(0)
        with pytest.raises(EngineClosedError, match="was closed"):
            await shared.submit(sentence(0))
        reading.go()
        await closing
        return await asyncio.gather(*tasks)

    found = run(main())
    assert all(same(a, b) for a, b in zip(engine.generate(requests), found, strict=True))


@pytest.mark.parametrize("step", [0, 1, 5])
def test_close_without_draining_cancels_submitted_requests(engine: Engine, steps: Steps, step: int) -> None:
    async def main() -> None:
        steps.stop_before(step)
        shared = AsyncEngine(engine, max_queue=3)
        tasks = [asyncio.create_task(answered(shared, sentence(i, LONG))) for i in range(6)]
        await steps.stopped()
        await until(lambda: len(shared.intake.backlog) == 3)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(shared.close(), 0.01)
        closing = asyncio.create_task(shared.close(drain=False))  # a second thought
        await asyncio.sleep(0)
        steps.go()
        await closing
        for result in await asyncio.gather(*tasks):
            assert (result.finish_reason, str(result.error)) == ("cancelled", "the request was cancelled")
        assert steps.count == step + 1

    run(main())


def test_an_error_in_the_async_with_block_cancels_requests(engine: Engine, reading: Reading) -> None:
    async def main() -> None:
        answers: list[asyncio.Future[Result]] = []
        with pytest.raises(ZeroDivisionError):
            async with AsyncEngine(engine) as shared:
                answers.append(await shared.submit(sentence(0)))  # and it cannot be read before the end
                raise ZeroDivisionError
        assert (await answers[0]).finish_reason == "cancelled"
        with pytest.raises(EngineClosedError):
            await shared.submit(sentence(0))
        await shared.close()
        reading.go()

    run(main())


def test_close_works_after_the_engine_was_closed(checkpoint: Checkpoint) -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            async with AsyncEngine(Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["t2tt"])) as shared:
                await shared.close()
                shared.engine.close()
                raise ZeroDivisionError
        await shared.close()

    run(main())


def test_close_ends_the_reader_threads(engine: Engine) -> None:
    before = set(threading.enumerate())

    async def main() -> None:
        async with AsyncEngine(engine, readers=3) as shared:
            await shared.generate([sentence(0)])
            assert 1 <= len(set(threading.enumerate()) - before) <= 3
        await until(lambda: set(threading.enumerate()) <= before)

    run(main())


def test_async_engine_outlives_an_event_loop(engine: Engine, steps: Steps) -> None:
    shared = AsyncEngine(engine, max_queue=2)

    async def leaves(awaits: bool) -> None:
        answer = await shared.submit(sentence(0, LONG))
        if awaits:
            asyncio.create_task(answered(shared, sentence(1, LONG)))
            asyncio.create_task(answered(shared, sentence(2, LONG)))
            asyncio.ensure_future(answer)
            await asyncio.sleep(0)

    run(leaves(awaits=False))
    run(leaves(awaits=True))

    async def later() -> None:
        assert (await answered(shared, sentence(3))).error is None
        await shared.close()

    run(later())


def test_a_dropped_async_engine_finishes_and_ends_its_threads(engine: Engine) -> None:
    before = set(threading.enumerate())

    async def main() -> Result:
        shared = AsyncEngine(engine)
        gone = weakref.ref(shared)
        answer = await shared.submit(sentence(0, LONG))
        del shared
        gc.collect()
        assert gone() is None
        return await answer

    assert run(main()).finish_reason == "length"
    deadline = time.monotonic() + PATIENCE
    while not set(threading.enumerate()) <= before:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_dropping_an_async_engine_waits_for_no_other_thread(engine: Engine) -> None:
    begun, go = threading.Event(), threading.Event()

    class Backlog(deque[Handle]):
        def __iter__(self) -> Iterator[Handle]:  # with the intake's lock
            begun.set()
            assert go.wait(PATIENCE)
            return super().__iter__()

    shared = [AsyncEngine(engine)]
    shared[0].intake.backlog = Backlog()
    closing = beside(shared[0].intake.close, False)
    assert begun.wait(PATIENCE)
    try:
        beside(shared.clear).result(PATIENCE)
    finally:
        go.set()
    closing.result(PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while engine.thread.claimed:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_process_exit_ends_an_async_engine_that_decodes(checkpoint: Checkpoint) -> None:
    code = f"""
import asyncio
from seamless_engine import AsyncEngine, DecodingParams, Request

engine = AsyncEngine.from_pretrained({str(checkpoint(0))!r}, device="cpu", tasks=["t2tt"])

async def main():
    params = DecodingParams(max_new_tokens=1000, min_new_tokens=1000)
    for _ in range(20):
        await engine.submit(Request("t2tt", "fra", text="a", src_lang="eng"), params)

asyncio.run(main())
print("done")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_close_at_exit_waits_for_no_engine_that_has_ended(checkpoint: Checkpoint) -> None:
    code = f"""
import asyncio, atexit

async def close():
    await engine.close()

atexit.register(lambda: asyncio.run(close()))  # runs last, because it comes before the import
from seamless_engine import AsyncEngine
engine = AsyncEngine.from_pretrained({str(checkpoint(0))!r}, device="cpu", tasks=["t2tt"])
print("done")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize("error", [RuntimeError("an illegal memory access"), SystemExit(3)], ids=repr)
def test_a_broken_step_fails_every_waiting_call(
    engine: Engine, steps: Steps, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(step: int) -> None:
        if step == 2:
            raise error

    async def main() -> None:
        steps.before = breaks
        shared = AsyncEngine(engine, max_queue=3)
        waiting: list[Awaitable[object]] = [answered(shared, sentence(i, LONG)) for i in range(5)]
        waiting += [shared.generate([sentence(i, LONG) for i in range(5)]), anext(shared.stream([sentence(6, LONG)]))]
        for failure in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(failure, EngineClosedError) and failure.__cause__ is error
            assert str(failure) == (
                f"the engine failed and takes no more requests: make a new one ({type(error).__name__}: {error})"
            )
        with pytest.raises(EngineClosedError, match="the engine failed"):
            await shared.submit(sentence(0))
        await shared.close()

    run(main())
    assert "the engine failed" in caplog.text and "in breaks" in caplog.text
    assert error.__traceback__ is None


@pytest.mark.parametrize("part", ["core", "scheduler"])
def test_a_broken_step_that_cannot_be_tidied_up_fails_every_waiting_call(checkpoint: Checkpoint, part: str) -> None:
    engine = Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["t2tt"])
    core = engine.core

    def breaks(*_: object) -> None:
        raise RuntimeError("broken")

    async def main() -> None:
        shared = AsyncEngine(engine)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(core, "step", breaks)
            patch.setattr(*((core, "fail", breaks) if part == "core" else (core.scheduler, "drop", breaks)))
            waiting = [answered(shared, sentence(i)) for i in range(2)]
            for failure in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(failure, EngineClosedError) and str(failure.__cause__) == "broken"
            await shared.close()
        assert not engine.thread.claimed

    run(main())


def test_a_broken_step_fails_calls_beside_a_cancelled_one(engine: Engine, steps: Steps) -> None:
    def breaks(step: int) -> None:
        if step == 2:
            raise RuntimeError("broken")

    async def main() -> None:
        steps.stop_before(1)
        steps.before = breaks
        shared = AsyncEngine(engine)
        answers = [await shared.submit(sentence(i, LONG)) for i in range(3)]
        await steps.stopped()
        answers[1].cancel()
        steps.go()
        failures = await asyncio.gather(*answers, return_exceptions=True)
        assert [type(failure) for failure in failures] == [
            *(EngineClosedError, asyncio.CancelledError, EngineClosedError)
        ]
        await shared.close()

    run(main())


def test_a_reader_thread_that_exits_fails_every_waiting_call(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def ends(*_: object) -> None:
        raise SystemExit

    async def main() -> None:
        shared = AsyncEngine(engine, readers=1)
        with pytest.raises(EngineClosedError, match="the engine failed"):
            await shared.generate([sentence(1), sentence(0, LONG)])
        await shared.close()

    monkeypatch.setattr(engine.preprocessor, "prepare", ends)
    run(main())


def test_a_file_that_raises_system_exit_fails_its_request_alone(checkpoint: Checkpoint) -> None:
    class Ends(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise SystemExit

    engine = Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["asr", "t2tt"])
    requests = [Request("asr", "eng", audio=Ends(b"RIFF")), sentence(0)]

    async def main() -> list[Result]:
        async with AsyncEngine(engine, readers=1) as shared:
            return await shared.generate(requests)

    for results in (engine.generate(requests), run(main())):
        assert str(results[0].error) == "reading the audio file object raised SystemExit()"
        assert results[1].error is None
    assert_free(engine)
