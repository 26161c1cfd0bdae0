"""The core of an engine: admit → encode → decode → synthesize → deliver. One step at a time, in one thread."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from seamless_engine.config import EngineConfig
from seamless_engine.device import on
from seamless_engine.errors import CancelledError, DeadlineError, InputError, NumericalError, SeamlessError
from seamless_engine.inputs.preprocess import Preprocessor
from seamless_engine.job import Job
from seamless_engine.model_runner import ModelRunner
from seamless_engine.recovery import bisect_batch
from seamless_engine.request import SPEECH_OUT, Hypothesis, Request, Result
from seamless_engine.scheduler import Limits, Scheduler
from seamless_engine.search.schema import Status

_ADVICE = "check its input, and the weights with Engine.from_pretrained(..., check_weights=True)"


@dataclass(frozen=True)
class _SynthesisPass:
    """A pass of which everything is launched. finish: waits for the waveforms."""

    jobs: list[Job]
    begun: float
    finish: Callable[[], None]


class Core:
    """All requests of an engine, whichever call they belong to: each finished job is put into its own outbox.

    One thread submits, steps, drops and fails.
    """

    def __init__(self, runner: ModelRunner, preprocessor: Preprocessor, options: EngineConfig) -> None:
        max_synthesis_tokens = options.max_synthesis_tokens or (1200 if runner.device.type == "cuda" else 64)
        self.runner = runner
        self.preprocessor = preprocessor
        self.scheduler = Scheduler(runner.blocks, Limits(options.max_encoder_tokens, max_synthesis_tokens))
        self._decode_clock = 0.0
        self._jobs: set[Job] = set()  # all that were submitted and not delivered yet
        self._passes: list[_SynthesisPass] = []  # launched, and not waited for yet

    @property
    def busy(self) -> bool:
        return self.scheduler.busy or bool(self._passes)

    @property
    def running(self) -> bool:
        """Whether anything but waiting requests would keep the next turn busy."""
        return bool(self.scheduler.decoding or self.scheduler.synthesizing or self._passes)

    @property
    def wants_more(self) -> bool:
        """Whether another request should be submitted."""
        return self.scheduler.wants_more

    def submit(self, job: Job) -> None:
        """Raises CapacityError for a request that would not fit even alone."""
        self.scheduler.submit(job)
        self._jobs.add(job)

    def step(self) -> None:
        """One turn. What it finishes is in the outboxes afterwards."""
        with on(self.runner.device):
            self._drop_late()
            self._encode()
            self._decode()
            self._synthesize()

    def fail(self, error: BaseException) -> None:
        """A step raised this: every request that was underway has it as its failure."""
        for job in self._jobs:
            self.scheduler.drop(job)
            job.failure = error
            job.outbox.append(job)
        self._jobs.clear()
        self._passes.clear()

    def drop(self, job: Job) -> None:
        """Forget a request between two steps; nothing is delivered."""
        if job in self._jobs:
            self._jobs.discard(job)
            self.scheduler.drop(job)
            self._passes = [one for one in self._passes if not self._jobs.isdisjoint(one.jobs)]

    def _drop_late(self) -> None:
        for job in self.scheduler.leaving(time.perf_counter()):
            self._deliver(job, left(job.request, job.cancelled))

    def _encode(self) -> None:
        admitted = self.scheduler.admit()
        if not admitted:
            return
        begun = time.perf_counter()
        failures = bisect_batch(self.runner.encode, admitted)
        spent = time.perf_counter() - begun
        for job, _ in admitted:
            job.result.timings |= {"queued": begun - job.started, "encode": spent, "decode": 0.0}
            job.decode_clock = self._decode_clock
        for (job, _), error in failures:
            self._deliver(job, error)

    def _decode(self) -> None:
        if not self.scheduler.decoding:
            return
        begun = time.perf_counter()
        ended = self.runner.decode(list(self.scheduler.decoding))
        self._decode_clock += time.perf_counter() - begun
        for job, status in ended:
            job.result.timings["decode"] = self._decode_clock - job.decode_clock
            if status is Status.BROKEN:
                status = NumericalError(f"the model produced NaN for this request; {_ADVICE}")
            if isinstance(status, Exception):
                self._deliver(job, status)
                continue
            synthesizes = job.request.task in SPEECH_OUT and not job.streams
            self.scheduler.retire(job, synthesizes)
            if not synthesizes:
                self._deliver(job)

    def _synthesize(self) -> None:
        """Launch the next synthesis pass, and deliver what the last one has made."""
        jobs = self.scheduler.next_synthesis()
        due, self._passes = self._passes, []
        begun = time.perf_counter()

        def launch(part: list[Job]) -> None:
            self._passes.append(_SynthesisPass(part, begun, self.runner.synthesize(part)))

        failures = bisect_batch(launch, jobs) if jobs else []
        if not (self.runner.completions.delay and self.scheduler.busy):
            due, self._passes = [*due, *self._passes], []
        # Otherwise the device has the next turn's step to do while the host waits for waveforms and copies them.
        for one in due:
            one.finish()
            for job in one.jobs:
                self._deliver_speech(job, one.begun)
        for job, error in failures:
            self._deliver_speech(job, begun, error)

    def _deliver_speech(self, job: Job, begun: float, error: Exception | None = None) -> None:
        if job in self._jobs:  # it was not dropped meanwhile
            job.result.timings["synthesize"] = time.perf_counter() - begun
            self._deliver(job, error)

    def _deliver(self, job: Job, error: Exception | None = None) -> None:
        """The result as its caller sees it: texts decoded, the best hypothesis in front. Its job holds nothing more.

        A request that failed in the synthesis pass keeps its text.
        """
        self.scheduler.drop(job)
        self._jobs.discard(job)
        result = job.result
        result.timings["total"] = time.perf_counter() - job.started
        for hypothesis in result.n_best:
            hypothesis.text = self.preprocessor.tokenizer.decode(hypothesis.tokens)
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
        job.source = None
        if not job.streams:
            job.speech = None  # the job of a segment stays until its request is answered
        job.outbox.append(job)


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
