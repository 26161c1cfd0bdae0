"""Requests on their way into the core: copied, read ahead of the device, handed over when the core wants more.

submit ─► backlog ─► a reader copies ─► a reader reads audio or text ─► ready ─► the core ─► the handle has its result
          `max_in_flight` are past it

A request without buffers or files is copied when its handle is made. Decoding and resampling of audio release the
interpreter, so the thread of the model stays with the device. One encoder pass is read ahead, beside the one that waits
in the core: a long queue holds no decoded audio.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from seamless_engine.core import Core, failed, left
from seamless_engine.errors import EngineClosedError
from seamless_engine.handed_over import handed_over, runs_foreign_code
from seamless_engine.inputs.preprocess import Preprocessor
from seamless_engine.job import Job
from seamless_engine.joining import join
from seamless_engine.recovery import request_error
from seamless_engine.request import DecodingParams, Request, Result, Segment
from seamless_engine.source import Clip, Clips, clip_key
from seamless_engine.threads import attempt

_log = logging.getLogger(__name__)
_MAX_UNREAD = 8  # requests of a call


class Handle(Future[Result]):
    """The result of a request that was submitted. Cancelling it gives the request up.

    draft: the result as far as it is known. taken: done when the engine holds a copy of the request.
    place: the queue that the handle stands in, while it can be taken out of there.
    jobs: one, or one for each segment, in order; None before the request is read. unfed: those that the core does not
    have yet. running: those that it has. error: why the request ends before its jobs have.
    clip: the audio, which other requests with the same `clip_key` may share.
    streams: the speech is wanted in pieces, so the job has no synthesis pass.
    """

    def __init__(self, request: Request, params: DecodingParams, draft: Result, *, streams: bool = False) -> None:
        super().__init__()
        self.started = time.perf_counter()
        self.deadline = None if request.timeout is None else self.started + request.timeout
        self.request = request if runs_foreign_code(request) else handed_over(request)
        self.params = params
        self.draft = draft
        self.streams = streams
        self.taken: Future[None] = Future()
        self.place: deque[Handle] | None = None
        self.jobs: list[Job] | None = None
        self.unfed: deque[Job] = deque()
        self.running: set[Job] = set()
        self.error: Exception | None = None
        self.clip_key = clip_key(self.request)
        self.clip: Clip | None = None


class Intake:
    """The requests of one call of an Engine, or of one AsyncEngine.

    Any thread may submit and cancel. The engine's thread expires, feeds, delivers and ends.

    wake: makes the engine's thread look again.
    readers: threads, started when there is something to read.
    max_in_flight: requests that are held past the backlog, up to the result; None is any number.
    wakes_early: whether each request that is ready wakes the engine's thread, or the last one that is being read.
    refusal: makes the exception that handles get out of the error that a step or a reader raised.
    """

    def __init__(
        self,
        preprocessor: Preprocessor,
        wake: Callable[[], None],
        *,
        readers: int,
        max_in_flight: int | None = None,
        wakes_early: bool = False,
        refusal: Callable[[BaseException], BaseException] = lambda error: error,
    ) -> None:
        self.backlog: deque[Handle] = deque()
        self.ready: deque[Handle] = deque()
        self.in_flight: set[Handle] = set()
        self.closing = False
        self.failure: BaseException | None = None
        self._preprocessor = preprocessor
        self._wake = wake
        self._max_readers = readers
        self._max_in_flight = max_in_flight
        self._wakes_early = wakes_early
        self._refusal = refusal
        # Reentrant, because a handle that is cancelled comes back here from wherever that happens.
        self._lock = threading.RLock()
        self._for_readers = threading.Condition(self._lock)
        self._readers = 0
        self._idle_readers = 0
        self._to_copy: deque[Handle] = deque()
        self._to_read: deque[Handle] = deque()
        self._timed: dict[Handle, float] = {}  # deadlines that the core does not know yet
        self._running: dict[Job, Handle] = {}  # in the core
        self._done: deque[Job] = deque()
        self._over = False
        self._num_read = 0  # of those in flight
        self._clips = Clips()

    @property
    def unread(self) -> int:
        """Requests in flight whose audio or text is not read yet."""
        with self._lock:
            return len(self.in_flight) - self._num_read

    @property
    def drained(self) -> bool:
        """Whether no request will be answered any more."""
        with self._lock:  # without it, a request on its way from the backlog into flight is in neither
            return self.closing and not self.in_flight and not self.backlog

    def room(self, core: Core, reads_ahead: bool) -> int:
        """How many requests a call should pull now: for the core, or to be read ahead, for one encoder pass.

        Some at a time, because to wake a thread takes longer than to read a text.
        """
        with self._lock:
            unread, ready = self.unread, len(self.ready)
            wanted = self._reads_more if reads_ahead and unread <= _MAX_UNREAD // 2 else not unread + ready
            if not wanted or not (unread + ready or core.wants_more):
                return 0
            return max(min(_MAX_UNREAD - unread, core.scheduler.blocks.num_seqs - unread - ready), 0)

    def submit(self, handle: Handle) -> None:
        """Raises EngineClosedError."""
        with self._lock:
            if self.closing:
                raise self._refused()
            handle.clip = self._clips.take(handle.clip_key)
            self._stand(handle, self.backlog)
            if handle.deadline is not None:
                self._timed[handle] = handle.deadline
                self._wake()  # the engine's thread may have to look earlier now
            self._take()
        handle.add_done_callback(self._given_up)

    def close(self, drain: bool) -> None:
        """Take no more requests. Those that were submitted are finished, or without `drain` cancelled."""
        with self._lock:
            self.closing = True
            for handle in [] if drain else [*self.backlog, *self.in_flight]:
                self._stop(handle, left(handle.request, cancelled=True))
            self._wake()

    def fail(self, error: BaseException) -> None:
        """Nothing will be answered any more: every future that is not done gets the refusal as its failure."""
        if not isinstance(error, EngineClosedError):
            _log.critical("the engine failed", exc_info=error)
        with self._lock:
            self.failure = error.with_traceback(None)  # which holds the tensors of its frames
            self.closing = True
            for future in [*(handle.taken for handle in (*self.backlog, *self.in_flight)), *self.in_flight]:
                if not future.done() and future.set_running_or_notify_cancel():
                    future.set_exception(self._refused())
            self._clear()
            self._wake()

    # The engine's thread

    def expire(self, now: float) -> float | None:
        """Answer the requests that are late outside of the core. Returns when the next one will be."""
        with self._lock:
            for handle in [handle for handle, deadline in self._timed.items() if deadline <= now]:
                self._stop(handle, left(handle.request, cancelled=False))
            return min(self._timed.values(), default=None)

    def feed(self, core: Core) -> None:
        """Give the core the requests that it wants and that are ready."""
        with self._lock:
            while self.ready and core.wants_more:
                handle = self.ready[0]
                job = handle.unfed.popleft()
                if not handle.unfed:
                    self.ready.popleft()
                    handle.place = None
                    self._timed.pop(handle, None)  # from here on the core keeps its deadline
                self._for_readers.notify()
                try:
                    core.submit(job)
                    handle.running.add(job)
                    self._running[job] = handle
                except Exception as error:  # whatever it is, only this request has it
                    self._stop(handle, request_error(error))

    def deliver(self) -> None:
        """Give the handles of finished jobs their results."""
        while self._done:
            job = self._done.popleft()
            with self._lock:
                handle = self._running.pop(job)
                handle.running.discard(job)
                failure, job.failure = job.failure, None
                if failure is None:
                    self._collect(handle, job)
                elif self.failure is None:
                    self.fail(failure)
            del failure

    def _collect(self, handle: Handle, job: Job) -> None:
        """A job of the request is finished."""
        assert handle.jobs is not None
        if job.result is handle.draft:
            if handle.request.segment is not None and job.result.audio_seconds is not None and not job.result.error:
                job.result.segments = [Segment(0.0, job.result.audio_seconds, job.result.text)]
            self._answer(handle, job.result)
        elif error := handle.error or job.result.error:
            self._stop(handle, error)
        elif not handle.running and not handle.unfed:
            self._answer(handle, self._joined(handle))

    def _joined(self, handle: Handle) -> Result:
        assert handle.jobs is not None
        try:
            return join(handle.draft, handle.jobs, self._preprocessor.config.sampling_rate)
        except Exception as error:  # memory may be short for all of the audio together
            return failed(handle.draft, request_error(error))

    def end(self, core: Core | None) -> None:
        """Drop what is still held, and end the readers."""
        with self._lock:
            self.closing = True
            running, self._running = list(self._running), {}
            self._clear()
            self._done.clear()
            self._over = True
            self._for_readers.notify_all()
        if core is not None:
            for job in running:
                core.drop(job)

    # A reader's thread

    def _read(self) -> None:
        try:
            while self._read_one():
                pass
        except BaseException as error:  # a reader that is gone would leave requests waiting
            self.fail(error)

    def _read_one(self) -> bool:
        with self._lock:
            self._idle_readers += 1
            while not (self._to_copy or (self._to_read and self._reads_more)):
                if self._over:
                    return False
                self._for_readers.wait()
            self._idle_readers -= 1
            copied = not self._to_copy
            handle = (self._to_copy or self._to_read).popleft()
            handle.place = None
        if copied:
            self._prepare(handle)
        else:
            self._copy(handle)
        return True

    def _copy(self, handle: Handle) -> None:
        copied = attempt(partial(handed_over, handle.request))
        with self._lock:
            if handle not in self.in_flight:
                return  # it was answered meanwhile
            if isinstance(copied, Exception):
                self._answer(handle, failed(handle.draft, request_error(copied)))
                return
            handle.request = copied
            self._stand(handle, self._to_read)
            _settle(handle.taken, None)
            self._notify_reader()

    def _prepare(self, handle: Handle) -> None:
        try:
            found = self._preprocessor.prepare(handle.request, handle.params, handle.draft, handle.clip)
        except Exception as error:  # whatever it is, only this request has it
            found = request_error(error)
        with self._lock:
            if handle not in self.in_flight:
                return  # it was answered meanwhile
            if isinstance(found, Exception):
                self._answer(handle, failed(handle.draft, found))
                return
            handle.jobs = found
            handle.unfed.extend(found)
            self._num_read += 1
            for job in found:
                job.started, job.deadline = handle.started, handle.deadline
                job.outbox, job.streams = self._done, handle.streams
            if not found:
                self._answer(handle, self._joined(handle))
                return
            self._stand(handle, self.ready)
            if self._wakes_early or not (self._to_copy or self._to_read) or not self._reads_more:
                self._wake()

    @property
    def _reads_more(self) -> bool:
        tokens = sum(job.num_tokens for handle in self.ready for job in handle.unfed)
        return tokens < self._preprocessor.options.max_encoder_tokens

    # Any thread, with the lock

    def _stand(self, handle: Handle, place: deque[Handle]) -> None:
        place.append(handle)
        handle.place = place

    def _take(self) -> None:
        """Move handles from the backlog into flight, in order."""
        while self.backlog and (self._max_in_flight is None or len(self.in_flight) < self._max_in_flight):
            handle = self.backlog.popleft()
            self.in_flight.add(handle)
            if runs_foreign_code(handle.request):
                self._stand(handle, self._to_copy)
            else:
                self._stand(handle, self._to_read)
                _settle(handle.taken, None)
            self._notify_reader()

    def _notify_reader(self) -> None:
        if self._idle_readers < len(self._to_copy) + len(self._to_read) and self._readers < self._max_readers:
            # Daemons, so that an engine that was not closed does not keep the process.
            reader = threading.Thread(target=self._read, name="seamless-engine-reader", daemon=True)
            try:
                reader.start()
                self._readers += 1
            except RuntimeError as error:  # the process may start no more threads
                if not self._readers:
                    self.fail(error)
        self._for_readers.notify()

    def _clear(self) -> None:
        """Take all handles out of the queues."""
        for handle in (*self.backlog, *self.in_flight):
            handle.place = None
        for group in (self.backlog, self._to_copy, self._to_read, self.ready, self.in_flight, self._timed):
            group.clear()
        self._num_read = 0

    def _answer(self, handle: Handle, result: Result) -> None:
        result.timings.setdefault("total", time.perf_counter() - handle.started)
        _settle(handle.taken, None)
        _settle(handle, result)
        self._release(handle)

    def _stop(self, handle: Handle, error: Exception) -> None:
        """End a request before its jobs have ended: at once, or when the core has given back those that it has."""
        handle.error = handle.error or error
        handle.unfed.clear()
        self._leave(handle)
        for job in handle.running:
            job.cancelled = True  # the core gives it back at its next step
        if not handle.running:
            self._answer(handle, failed(handle.draft, handle.error))

    def _leave(self, handle: Handle) -> None:
        """Take a handle out of the queue that it stands in."""
        self._timed.pop(handle, None)
        if handle.place is not None:
            handle.place.remove(handle)
            handle.place = None
            self._for_readers.notify_all()

    def _release(self, handle: Handle) -> None:
        self._leave(handle)
        if handle in self.in_flight:
            self.in_flight.remove(handle)
            self._num_read -= handle.jobs is not None
        if handle.clip is not None:
            self._clips.give_back(handle.clip)
            handle.clip = None
        self._take()
        self._wake()

    def _given_up(self, handle: Future[Result]) -> None:
        """Called when a handle is done, however that came."""
        assert isinstance(handle, Handle)
        if handle.cancelled():
            with self._lock:
                self._stop(handle, left(handle.request, cancelled=True))

    def _refused(self) -> BaseException:
        if self.failure is None:
            return EngineClosedError("the engine was closed and takes no more requests")
        return self._refusal(self.failure)


def _settle(future: Future, value: object) -> None:
    """Set the result, unless the future is done or was cancelled meanwhile."""
    if not future.done() and future.set_running_or_notify_cancel():
        future.set_result(value)
