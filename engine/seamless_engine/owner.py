"""The thread that owns an engine's loop, and those that read for it. Any thread may ask; nothing here knows asyncio.

submit ─► parked ─► placed ─► a reader: copies ─► queue ─► a reader: audio, text ─► ready ─► the loop ─► the result
          max_queue are held from here on                                           while it wants more

A request without buffers or files is copied at once, and goes from `parked` into the queue.
Reading has threads of its own: decoding and resampling release the interpreter, and the owner stays with the device.
One encoder pass is read ahead, beside the one that waits in the loop: a long queue holds no decoded audio.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import deque
from concurrent.futures import Future
from functools import partial

from seamless_engine.core import Core, failed, left
from seamless_engine.errors import EngineClosedError
from seamless_engine.handed_over import handed_over, runs_foreign_code
from seamless_engine.inputs.preprocess import Preprocessor
from seamless_engine.job import Job
from seamless_engine.readers import attempt
from seamless_engine.recovery import settled
from seamless_engine.request import DecodingParams, Request, Result

_log = logging.getLogger(__name__)


class Handle(Future[Result]):
    """The result of a request that was submitted. Cancelling it gives the request up.

    taken: done when the owner holds a copy of the request.
    line: where the handle stands, while it can be taken out of there.
    """

    def __init__(self, request: Request, params: DecodingParams, result: Result) -> None:
        super().__init__()
        self.request = request
        self.params = params
        self.draft = result
        self.started = time.perf_counter()
        self.deadline = None if request.timeout is None else self.started + request.timeout
        self.taken: Future[None] = Future()
        self.line: deque[Handle] | None = None
        self.job: Job | None = None


class AsyncThread:
    """max_queue: requests that are held at a time, from the place in the queue to the result. readers: threads."""

    def __init__(self, loop: Core, preprocessor: Preprocessor, max_queue: int, readers: int) -> None:
        self.ended: Future[None] = Future()
        self._loop = loop
        self._preprocessor = preprocessor
        self._max_queue = max_queue
        # Reentrant, because a handle that is cancelled comes back here from wherever that happens.
        self._lock = threading.RLock()
        self._for_owner = threading.Condition(self._lock)
        self._for_readers = threading.Condition(self._lock)
        self._parked: deque[Handle] = deque()
        self._placed: deque[Handle] = deque()
        self._queue: deque[Handle] = deque()
        self._ready: deque[Handle] = deque()
        self._held: set[Handle] = set()
        self._timed: dict[Handle, float] = {}  # deadlines that the loop does not know yet
        self._running: dict[Job, Handle] = {}  # in the loop
        self._done: deque[Job] = deque()
        self._closing = False
        self._over = False
        self._failure: BaseException | None = None
        # Daemons, so that an engine that was not closed does not keep the process; it is stopped at exit.
        self._thread = threading.Thread(target=self._own, name="seamless-engine", daemon=True)
        loop.claim(self._thread)
        atexit.register(self._at_exit)
        self._thread.start()
        for _ in range(readers):
            threading.Thread(target=self._read, name="seamless-engine-reader", daemon=True).start()

    def submit(self, handle: Handle) -> None:
        """Raises EngineClosedError."""
        if not runs_foreign_code(handle.request):
            handle.request = handed_over(handle.request)
        with self._lock:
            if self._closing:
                raise self._refusal()
            self._stand(handle, self._parked)
            if handle.deadline is not None:
                self._timed[handle] = handle.deadline
                self._for_owner.notify()  # it may have to wake up earlier now
            self._take()
        handle.add_done_callback(self._given_up)

    def close(self, drain: bool) -> None:
        """Take no more requests. Those that were submitted are finished, or without `drain` cancelled."""
        with self._lock:
            self._closing = True
            for handle in [] if drain else [*self._parked, *self._held]:
                if handle.job in self._running:
                    handle.job.cancelled = True
                else:
                    self._answer(handle, failed(handle.draft, left(handle.request, cancelled=True)))
            self._for_owner.notify()

    def _at_exit(self) -> None:
        self.close(drain=False)
        self._thread.join()

    # The owner's thread

    def _own(self) -> None:
        try:
            while self._collect():
                self._loop.step()
                self._deliver()
        except BaseException as error:
            self._fail(error)
        try:
            for job in self._running:  # without the lock, because this may wait for a pass
                self._loop.drop(job)
        finally:
            with self._lock:
                self._running.clear()
                self._loop.owner = None
                self._over = True
                self._for_readers.notify_all()
            atexit.unregister(self._at_exit)
            self.ended.set_result(None)

    def _collect(self) -> bool:
        """Give the loop what it wants, and wait until it has work. False when there will be none any more."""
        with self._lock:
            while True:
                soonest = self._expire()
                self._feed()
                if self._failure is not None:
                    return False
                if self._loop.busy:
                    return True
                if self._closing and not self._held:
                    return False
                self._for_owner.wait(soonest)

    def _expire(self) -> float | None:
        """Answer the handles that are late outside of the loop. Seconds until the next one will be."""
        now = time.perf_counter()
        for handle in [handle for handle, deadline in self._timed.items() if deadline <= now]:
            self._answer(handle, failed(handle.draft, left(handle.request, cancelled=False)))
        return min(self._timed.values()) - now if self._timed else None

    def _feed(self) -> None:
        while self._ready and self._loop.wants_more:
            handle = self._ready.popleft()
            handle.line = None
            assert handle.job is not None
            self._timed.pop(handle, None)  # from here on its deadline is the loop's
            self._for_readers.notify()
            try:
                self._loop.submit(handle.job)
                self._running[handle.job] = handle
            except Exception as error:  # whatever it is, only this request has it
                self._answer(handle, failed(handle.draft, settled(error)))

    def _deliver(self) -> None:
        with self._lock:
            while self._done:
                job = self._done.popleft()
                self._answer(self._running.pop(job), job.result)

    # A reader's thread

    def _read(self) -> None:
        try:
            while self._read_one():
                pass
        except BaseException as error:  # a reader that is gone would leave requests waiting
            self._fail(error)

    def _read_one(self) -> bool:
        with self._lock:
            while not (self._placed or (self._queue and self._wants_more_read)):
                if self._over:
                    return False
                self._for_readers.wait()
            is_copied = not self._placed
            handle = (self._placed or self._queue).popleft()
            handle.line = None
        if is_copied:
            self._prepare(handle)
        else:
            self._copy(handle)
        return True

    def _copy(self, handle: Handle) -> None:
        copied = attempt(partial(handed_over, handle.request))
        with self._lock:
            if handle not in self._held:
                return  # it was answered meanwhile
            if isinstance(copied, Exception):
                self._answer(handle, failed(handle.draft, settled(copied)))
                return
            handle.request = copied
            self._stand(handle, self._queue)
            _settle(handle.taken, None)
            self._for_readers.notify()

    def _prepare(self, handle: Handle) -> None:
        try:
            found = self._preprocessor.prepare(handle.request, handle.params, handle.draft)
        except Exception as error:  # whatever it is, only this request has it
            found = settled(error)
        with self._lock:
            if handle not in self._held:
                return  # it was answered meanwhile
            if isinstance(found, Exception):
                self._answer(handle, failed(handle.draft, found))
                return
            found.count_from(handle.started)
            found.outbox = self._done
            handle.job = found
            self._stand(handle, self._ready)
            self._for_owner.notify()

    @property
    def _wants_more_read(self) -> bool:
        rows = sum(handle.job.num_tokens for handle in self._ready if handle.job is not None)
        return rows < self._preprocessor.options.max_encoder_tokens

    # Any thread, with the lock

    def _stand(self, handle: Handle, line: deque[Handle]) -> None:
        line.append(handle)
        handle.line = line

    def _take(self) -> None:
        """Give places to the handles that wait for one, in order."""
        while self._parked and len(self._held) < self._max_queue:
            handle = self._parked.popleft()
            self._held.add(handle)
            if runs_foreign_code(handle.request):
                self._stand(handle, self._placed)
            else:
                self._stand(handle, self._queue)
                _settle(handle.taken, None)
            self._for_readers.notify()

    def _answer(self, handle: Handle, result: Result) -> None:
        if not handle.taken.done():
            _settle(handle.taken, None)
        if not handle.done():
            _settle(handle, result)
        self._release(handle)

    def _release(self, handle: Handle) -> None:
        if handle.line is not None:
            handle.line.remove(handle)
            handle.line = None
            self._for_readers.notify_all()
        self._held.discard(handle)
        self._timed.pop(handle, None)
        self._take()
        if self._closing and not self._held:
            self._for_owner.notify()

    def _given_up(self, handle: Future[Result]) -> None:
        """Called when a handle is done, however that came."""
        assert isinstance(handle, Handle)
        if handle.cancelled():
            with self._lock:
                if handle.job in self._running:
                    handle.job.cancelled = True  # the loop gives it back at its next step
                else:
                    self._release(handle)

    def _fail(self, error: BaseException) -> None:
        """Nothing will be answered any more: every future that is not done gets this as its failure."""
        _log.critical("the engine failed", exc_info=error)
        with self._lock:
            self._failure = error.with_traceback(None)  # which holds the tensors of its frames
            self._closing = True
            for future in [*(handle.taken for handle in (*self._parked, *self._held)), *self._held]:
                if not future.done() and future.set_running_or_notify_cancel():
                    future.set_exception(self._refusal())
            for handle in (*self._parked, *self._placed, *self._queue, *self._ready):
                handle.line = None
            for group in (self._parked, self._placed, self._queue, self._ready, self._held, self._timed):
                group.clear()
            self._for_owner.notify()

    def _refusal(self) -> EngineClosedError:
        if self._failure is None:
            return EngineClosedError("the engine was closed and takes no more requests")
        kind = type(self._failure).__name__
        error = EngineClosedError(
            f"the engine failed and takes no more requests: make a new one ({kind}: {self._failure})"
        )
        error.__cause__ = self._failure
        return error


def _settle(future: Future, value: object) -> None:
    """Set the result, unless the future was cancelled meanwhile."""
    if not future.cancelled() and future.set_running_or_notify_cancel():
        future.set_result(value)
