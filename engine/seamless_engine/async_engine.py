"""An engine for asyncio: requests from many tasks, event loops and threads share its batches."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import weakref
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from functools import partial
from types import TracebackType
from typing import overload

import torch

from seamless_engine.config import EngineConfig
from seamless_engine.core import draft, failed
from seamless_engine.engine import Engine
from seamless_engine.errors import EngineClosedError, UsageError
from seamless_engine.inputs.preprocess import check_requests, params_of
from seamless_engine.intake import Handle
from seamless_engine.request import DecodingParams, Request, Result
from seamless_engine.scheduler import SlowStart
from seamless_engine.values import integer


class AsyncEngine:
    """Answers requests from many tasks, event loops and threads at once, in the same batches.

    The engine runs in its own thread; a few others read audio and text ahead of it. No event loop waits for the model.

    engine: a loaded Engine. Ask it for languages and memory, and send it no requests until this is closed.
    max_queue: requests in flight at a time, from their copy to their result; None is twice `EngineConfig.max_num_seqs`.
        Further calls of `submit` wait.
    readers: threads that read file objects, decode audio and split text into tokens; None is one for each core, up to
        eight, and at least one for each of `EngineConfig.decode_processes`.

    `async with` closes the engine: after its requests are finished, or when an error leaves the block, at once.
    """

    def __init__(self, engine: Engine, *, max_queue: int | None = None, readers: int | None = None) -> None:
        max_queue = 2 * engine.options.max_num_seqs if max_queue is None else max_queue
        readers = max(min(os.cpu_count() or 1, 8), engine.options.decode_processes) if readers is None else readers
        self.engine = engine
        self.max_queue = integer("max_queue", max_queue, low=1)
        self._count = itertools.count()
        readers = integer("readers", readers, low=1)
        self.intake, self._ended = engine.thread.claim(
            readers=readers, max_in_flight=self.max_queue, wakes_early=True, refusal=_refusal
        )
        # A finaliser may run where another thread waits for this one, so it takes no lock.
        weakref.finalize(self, engine.thread.post, partial(self.intake.close, True)).atexit = False

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        tasks: Iterable[str] | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        options: EngineConfig | None = None,
        check_weights: bool = False,
        max_queue: int | None = None,
        readers: int | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> AsyncEngine:
        """Load a checkpoint as `Engine.from_pretrained` does. It takes long: do it before the event loop runs."""
        engine = Engine.from_pretrained(
            path,
            tasks=tasks,
            device=device,
            dtype=dtype,
            options=options,
            check_weights=check_weights,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        return cls(engine, max_queue=max_queue, readers=readers)

    async def submit(self, request: Request, params: DecodingParams | None = None) -> asyncio.Future[Result]:
        """Submit a request; waits while `max_queue` others are in flight. Await what it returns for the result.

        A request that fails has `error` set. Cancelling what is returned, or the task that awaits it, gives the request
        up: everything that it holds is free after the step or pass that is running. `Request.timeout` counts from this
        call. The result's `id` is the request's own, or how many were submitted before it.

        The request and its buffers are the caller's again when this returns; a file object was read by then, unless
        the timeout passed or `close` cancelled the request before.

        Raises UsageError if the request is wrong in itself, EngineClosedError if this engine takes no more; awaiting
        the result raises EngineClosedError if the engine breaks.
        """
        return await self._submit(request, params_of(request, params), next(self._count))

    @overload
    async def generate(self, requests: Iterable[Request], params: DecodingParams | None = None) -> list[Result]: ...
    @overload
    async def generate(self, requests: Request, params: DecodingParams | None = None) -> Result: ...
    async def generate(
        self, requests: Request | Iterable[Request], params: DecodingParams | None = None
    ) -> Result | list[Result]:
        """Answer one request, or all of several: one result each, in input order. A request that fails has `error` set.

        Raises UsageError before any work if a request is wrong in itself; EngineClosedError.
        """
        listed = self.engine.preprocessor.checked(requests, params)
        async with contextlib.aclosing(self._run(listed, params, SlowStart(len(listed) + 1))) as found:
            results = {index: result async for index, result in found}
        return results[0] if isinstance(requests, Request) else [results[index] for index in range(len(listed))]

    async def stream(
        self, requests: Iterable[Request] | AsyncIterable[Request], params: DecodingParams | None = None
    ) -> AsyncGenerator[Result, None]:
        """Answer requests as they are pulled from an iterable, in order of completion.

        Holds at most `max_queue` at a time, results that the caller has not taken yet included, so the iterable may be
        endless. If pulling from it may take long, make it asynchronous. Closing the stream gives up what it holds. A
        request that is wrong in itself gives a result with `error` set, like any other failure.

        Raises EngineClosedError, and what the iterable raises.
        """
        given = check_requests(requests, Iterable | AsyncIterable)
        async with contextlib.aclosing(self._run(given, params, SlowStart())) as found:
            async for _, result in found:
                yield result

    async def close(self, *, drain: bool = True) -> None:
        """Take no more requests, finish those that were submitted, and end the threads.

        drain: False cancels the requests instead; their results have `finish_reason` "cancelled". A second call may
            do so while the first one waits.
        """
        self.engine.thread.check_process()
        self.intake.close(drain)
        await asyncio.shield(asyncio.wrap_future(self._ended))

    async def __aenter__(self) -> AsyncEngine:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close(drain=kind is None)

    async def _submit(self, request: Request, params: DecodingParams, index: int) -> asyncio.Future[Result]:
        self.engine.preprocessor.check(request, params)
        self.engine.thread.check()
        handle = Handle(request, params, draft(request, index))
        self.intake.submit(handle)
        try:
            await asyncio.wrap_future(handle.taken)
        except BaseException:
            handle.cancel()
            raise
        return asyncio.wrap_future(handle)

    async def _run(
        self, requests: Iterable[Request] | AsyncIterable[Request], params: DecodingParams | None, start: SlowStart
    ) -> AsyncGenerator[tuple[int, Result], None]:
        """Results with the positions of their requests, in order of completion."""
        room = asyncio.Semaphore(self.max_queue)
        in_flight: dict[asyncio.Future[Result], int] = {}
        finished: asyncio.Queue[asyncio.Future] = asyncio.Queue()
        progress, answered = asyncio.Event(), 0

        async def wait_to_pull(pulled: int) -> None:
            await room.acquire()
            while not start.allows(pulled, answered):
                progress.clear()
                await progress.wait()

        async def feed() -> None:
            await wait_to_pull(0)
            async with contextlib.aclosing(_numbered(requests)) as pulled:
                async for index, request in pulled:
                    chosen = params_of(request, params)
                    try:
                        answer = await self._submit(request, chosen, index)
                    except UsageError as error:
                        answer = asyncio.get_running_loop().create_future()
                        answer.set_result(failed(draft(request, index), error))
                    in_flight[answer] = index
                    answer.add_done_callback(finished.put_nowait)
                    await wait_to_pull(index + 1)

        feeder = asyncio.create_task(feed())
        feeder.add_done_callback(finished.put_nowait)
        exhausted = False
        try:
            while in_flight or not exhausted:
                answer = await finished.get()
                if answer is feeder:
                    feeder.result()
                    exhausted = True
                else:
                    index = in_flight.pop(answer)
                    answered += 1
                    progress.set()
                    room.release()
                    yield index, answer.result()
        finally:
            for future in (feeder, *in_flight):
                future.cancel()
            await asyncio.gather(feeder, *in_flight, return_exceptions=True)


async def _numbered(
    requests: Iterable[Request] | AsyncIterable[Request],
) -> AsyncGenerator[tuple[int, Request], None]:
    index = 0
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield index, request
            index += 1
    else:
        for index, request in enumerate(requests):
            yield index, request


def _refusal(failure: BaseException) -> EngineClosedError:
    kind = type(failure).__name__
    error = EngineClosedError(f"the engine failed and takes no more requests: make a new one ({kind}: {failure})")
    error.__cause__ = failure
    return error
