"""The loop: admit → encode → decode → speak → deliver. One step at a time, in one thread.

Encoder and speech passes run in the runner's lane, one at a time. Where that is beside the decode steps, these go on
without the requests that are being encoded.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass

import numpy as np

from seamless_engine.config import EngineConfig
from seamless_engine.errors import (
    CancelledError,
    CapacityError,
    DeadlineError,
    InputError,
    NumericalError,
    SeamlessError,
    UsageError,
)
from seamless_engine.inputs.tokenizer import Tokenizer
from seamless_engine.job import Job
from seamless_engine.lane import on
from seamless_engine.model_runner import ModelRunner
from seamless_engine.recovery import bisect_batch
from seamless_engine.request import SPEECH_OUT, Hypothesis, Request, Result
from seamless_engine.scheduler import Limits, Scheduler
from seamless_engine.search.state import Status

_ADVICE = "check its input, and the weights with Engine.from_pretrained(..., check_weights=True)"


_Failures = dict[Job, Exception]
_Deliver = Callable[["_Pass", float, _Failures], Iterator[Job]]


@dataclass
class _Pass:
    """An encoder or speech pass that was started. outcome: the error of each job that failed alone.

    deliver: takes the pass, the seconds that it took, and its outcome.
    """

    jobs: list[Job]
    outcome: Future[_Failures]
    begun: float
    deliver: _Deliver


class Core:
    """All requests of an engine, whichever call they belong to: each finished job is put into its own outbox.

    Any thread may submit. One thread steps, drops and fails.

    owner: the thread of an AsyncEngine, which alone may submit and step, UsageError elsewhere; None if there is none.
    callers: the calls of an Engine that are underway, those that are suspended included.
    """

    def __init__(self, runner: ModelRunner, tokenizer: Tokenizer, options: EngineConfig) -> None:
        max_synthesis_tokens = options.max_synthesis_tokens or (512 if runner.device.type == "cuda" else 64)
        self.scheduler = Scheduler(runner.blocks, Limits(options.max_encoder_tokens, max_synthesis_tokens))
        self.owner: threading.Thread | None = None
        self.callers: set[object] = set()
        self.runner = runner
        self._tokenizer = tokenizer
        self._decode_clock = 0.0
        self._pass: _Pass | None = None
        self._jobs: set[Job] = set()  # all that were submitted and not delivered yet
        self._submitting = threading.RLock()  # `fail` finds a job in both sets or in none

    @property
    def busy(self) -> bool:
        return self.scheduler.busy or self._pass is not None

    @property
    def running(self) -> bool:
        """Whether anything but waiting requests would keep the next turn busy."""
        return bool(self._pass or self.scheduler.decoding or self.scheduler.speaking)

    @property
    def wants_more(self) -> bool:
        """Whether another request should be prepared."""
        self.check_owner()
        return self.scheduler.wants_more

    def enter(self, call: object) -> None:
        """A call begins; at its end it is taken out of `callers`. Raises UsageError if an AsyncEngine is open."""
        self.callers.add(call)  # before the look at the owner: `claim` does it the other way round
        self.check_owner()

    def claim(self, owner: threading.Thread) -> None:
        """The engine belongs to this thread from now on. Raises UsageError if it is in use."""
        if self.owner is None:
            self.owner = owner
            if not self.callers and not self.busy:
                return
            self.owner = None
        raise UsageError("this engine is in use: close its AsyncEngine, and the streams that it has begun, first")

    def submit(self, job: Job) -> None:
        """Raises CapacityError for a request that would not fit even alone."""
        self.check_owner()
        with self._submitting:
            self._jobs.add(job)
            try:
                self.scheduler.submit(job)
            except CapacityError:
                self._jobs.discard(job)
                raise

    def fail(self, error: BaseException) -> None:
        """A step raised this: every request that was underway has it as its failure."""
        self.settle()
        self._pass = None
        with self._submitting:
            for job in self._jobs:
                self.scheduler.drop(job)
                job.failure = error
                job.outbox.append(job)
            self._jobs.clear()

    def drop(self, job: Job) -> None:
        """Forget a request between two steps; nothing is delivered."""
        if job not in self._jobs:
            return
        self._jobs.discard(job)
        if self._pass and job in self._pass.jobs:
            self.settle()
            self._pass.jobs.remove(job)
            if not self._pass.jobs and self._pass.outcome.exception() is None:  # else the next step raises it
                self._pass = None
        self.scheduler.drop(job)

    def settle(self) -> None:
        """Wait until no pass is running."""
        if self._pass:
            wait([self._pass.outcome])

    def step(self) -> None:
        """One turn. What it finishes is in the outboxes afterwards."""
        self.check_owner()
        with on(self.runner.device):
            for job in self._finished():
                self._jobs.discard(job)
                job.outbox.append(job)

    def check_owner(self) -> None:
        """Raises UsageError in a thread that is not the owner, if there is one."""
        if self.owner not in (None, threading.current_thread()):
            raise UsageError("this engine belongs to an AsyncEngine: give that the request, or close it first")

    def _finished(self) -> Iterator[Job]:
        scheduler = self.scheduler
        if self._pass and (self._pass.outcome.done() or not self._decoding):
            yield from self._land()
        for job in scheduler.leaving(time.perf_counter()):
            if self._pass and job in self._pass.jobs:
                continue  # its blocks are being written
            scheduler.drop(job)
            yield self._delivered(job, left(job.request, job.cancelled))
        yield from self._speak()  # before an encoder pass: these follow one another as long as anybody waits
        if self._pass:
            scheduler.skip_turn()
        else:
            yield from self._encode()
        decoding = self._decoding
        if decoding:
            yield from self._decode(decoding)
        yield from self._speak()

    def _encode(self) -> Iterator[Job]:
        admitted = self.scheduler.admit()

        def run() -> _Failures:
            return {job: error for (job, _), error in bisect_batch(self.runner.encode, admitted)}

        if admitted:
            yield from self._start(run, [job for job, _ in admitted], self._encoded)

    def _speak(self) -> Iterator[Job]:
        spoken = [] if self._pass else self.scheduler.next_speech()
        if spoken:
            yield from self._start(lambda: dict(bisect_batch(self.runner.speak, spoken)), spoken, self._spoken)

    @property
    def _decoding(self) -> list[Job]:
        """Requests whose encodings are there."""
        encoding = set(self._pass.jobs) if self._pass else ()
        return [job for job in self.scheduler.decoding if job not in encoding]

    def _start(self, run: Callable[[], _Failures], jobs: list[Job], deliver: _Deliver) -> Iterator[Job]:
        begun = time.perf_counter()
        self._pass = _Pass(jobs, self.runner.lane.start(run), begun, deliver)
        if self._pass.outcome.done():
            yield from self._land()

    def _land(self) -> Iterator[Job]:
        """Take over what a pass has done; waits for its end."""
        assert self._pass is not None
        self.settle()
        landed, self._pass = self._pass, None
        yield from landed.deliver(landed, time.perf_counter() - landed.begun, landed.outcome.result())

    def _encoded(self, landed: _Pass, spent: float, failed: _Failures) -> Iterator[Job]:
        for job in landed.jobs:
            job.result.timings |= {"queued": landed.begun - job.started, "encode": spent, "decode": 0.0}
            job.decode_clock = self._decode_clock
        for job in landed.jobs:
            if job in failed:
                self.scheduler.drop(job)
                yield self._delivered(job, failed[job])

    def _decode(self, jobs: list[Job]) -> Iterator[Job]:
        begun = time.perf_counter()
        ended = self.runner.decode(jobs)
        self._decode_clock += time.perf_counter() - begun
        for job, status in ended:
            job.result.timings["decode"] = self._decode_clock - job.decode_clock
            if status is Status.BROKEN:
                status = NumericalError(f"the model produced NaN for this request; {_ADVICE}")
            if isinstance(status, Exception):
                self.scheduler.drop(job)
                yield self._delivered(job, status)
                continue
            speaks = job.request.task in SPEECH_OUT and not job.streams
            self.runner.finish(job)
            self.scheduler.retire(job, speaks)
            if not speaks:
                yield self._delivered(job)

    def _spoken(self, landed: _Pass, spent: float, failed: _Failures) -> Iterator[Job]:
        for job in landed.jobs:
            job.result.timings["speak"] = spent
            yield self._delivered(job, failed.get(job))

    def _delivered(self, job: Job, error: Exception | None = None) -> Job:
        """The result as its caller sees it: texts decoded, the best hypothesis in front.

        A request that failed in the speech pass keeps its text.
        """
        result = job.result
        result.timings["total"] = time.perf_counter() - job.started
        for hypothesis in result.n_best:
            hypothesis.text = self._tokenizer.decode(hypothesis.tokens)
        for entry in dataclasses.fields(Hypothesis) if result.n_best else ():
            setattr(result, entry.name, getattr(result.n_best[0], entry.name))
        if any(h.audio is not None and not np.isfinite(h.audio).all() for h in result.n_best):
            error = NumericalError(f"the speech of this request is not finite; {_ADVICE}")
        if error is None and not result.n_best:
            error = InputError("the decoding parameters leave nothing to choose: suppress, ban or penalise less")
        if error is not None:
            result.audio, result.units, result.n_best = None, None, []
            failed(result, error)
        elif job.voice is not None:
            result.sampling_rate = self.runner.config.sampling_rate
        return job


def draft(request: Request, index: int) -> Result:
    """The result of a request before anything is known of it. index: its id if it has none of its own."""
    return Result(request.id if request.id is not None else index, request.task, request.tgt_lang)


def failed(result: Result, error: Exception) -> Result:
    """The result of a request that met an error, which it keeps without tracebacks: these hold the tensors of frames.

    An exception that the engine does not raise on purpose becomes a plain SeamlessError that names its class.
    """
    result.finish_reason = "cancelled" if isinstance(error, CancelledError) else "error"
    if not isinstance(error, SeamlessError):
        error = SeamlessError(f"{type(error).__name__}: {error}")
    error.__cause__ = error.__context__ = None
    result.error = error.with_traceback(None)
    return result


def left(request: Request, cancelled: bool) -> CancelledError:
    """Why a request leaves before it is finished: it was cancelled, or else it is late."""
    if cancelled:
        return CancelledError("the request was cancelled")
    return DeadlineError(f"the request was not finished within its timeout of {request.timeout:g} s")
