"""A loaded model that answers requests."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial

import numpy as np
import torch

from seamless_engine.config import EngineConfig, ModelConfig
from seamless_engine.decode.scheduler import Job, SlowStart
from seamless_engine.errors import UsageError
from seamless_engine.forward import encode, forced_logits
from seamless_engine.front_end import FrontEnd, check_requests, params_of
from seamless_engine.lane import Beside, InTurn, Lane, on
from seamless_engine.loader import find_checkpoint
from seamless_engine.loop import Loop, failed, raise_failure
from seamless_engine.model_runner import ModelRunner
from seamless_engine.prepared import Features, Tokens
from seamless_engine.recovery import settled
from seamless_engine.request import SPEECH_OUT, TASKS, DecodingParams, Request, Result, Task
from seamless_engine.tokenizer import Tokenizer
from seamless_kernels.dispatch import backend_for

_UNREAD = 8  # requests that were drawn and are not read yet, at most
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Engine:
    """A loaded model that answers requests. Not thread-safe: one thread owns an engine."""

    def __init__(
        self, runner: ModelRunner, tokenizer: Tokenizer, options: EngineConfig, tasks: tuple[Task, ...]
    ) -> None:
        self.config: ModelConfig = runner.config
        self.options = options
        self.tasks = tasks
        self._runner = runner
        self._front_end = FrontEnd(runner.config, options, tasks, tokenizer)
        self._loop = Loop(runner, tokenizer, options)
        # While a GPU computes, a thread reads what comes next. On a CPU they would share the cores.
        self._reading: Lane = Beside(torch.device("cpu")) if runner.device.type == "cuda" else InTurn()

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
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> Engine:
        """Load a checkpoint in the transformers format.

        path: a folder, or a hub id (found in the cache when offline).
        tasks: loads only the modules that these need; None is all five.
        device: "auto" is cuda where there is one, else cpu.
        dtype: "auto" is bfloat16 on cuda, float32 on a CPU.
        check_weights: refuse a checkpoint that has NaN or infinite values, and name the tensors.
        revision, token, cache_dir, local_files_only: for a hub id, as in `huggingface_hub.snapshot_download`.

        Raises CheckpointError for a checkpoint that cannot be used, UsageError for an argument that cannot.
        """
        options = options or EngineConfig()
        where = resolve_device(device)
        precision = resolve_dtype(dtype, where)
        chosen = _tasks(tasks)
        folder = find_checkpoint(
            path, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        config = ModelConfig.from_folder(folder)
        tokenizer = Tokenizer.from_folder(folder, config)
        with on(where):
            runner = ModelRunner(folder, config, options, chosen, where, precision, check_weights)
        return cls(runner, tokenizer, options, chosen)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._runner.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self._runner.decoder.embedding.dtype

    @property
    def weight_bytes(self) -> dict[str, int]:
        """Bytes of weights that were loaded, by module."""
        return dict(self._runner.weight_bytes)

    def languages(self, task: str) -> list[str]:
        """Codes that `tgt_lang` may take for a task, from the checkpoint's own tables."""
        return self._front_end.languages.codes(_tasks([task])[0])

    def memory(self) -> dict[str, int]:
        """Bytes by holder: weights of each module, the key/value pool, the decoding buffers.

        On a GPU also `passes`, what the largest encoder or speech pass takes while it runs, and `graphs`, what recorded
        graphs read and compute; their nodes, which the driver keeps, are not counted.
        """
        return self._runner.memory()

    def forced_logits(self, source: Features | Tokens, tokens: Sequence[int]) -> torch.Tensor:
        """float32 [len(tokens), vocab]: what the decoder expects after each of the tokens it is made to read."""
        self._loop.settle()
        with on(self.device):
            return forced_logits(self._runner, source, tokens)

    def encode(self, source: Features | Tokens) -> torch.Tensor:
        """[length, hidden] in the engine's dtype: what the encoder makes of one input."""
        self._loop.settle()
        with on(self.device):
            return encode(self._runner, source)

    def generate(self, requests: Iterable[Request], params: DecodingParams | None = None) -> list[Result]:
        """Answer all requests; results in input order, one each. A request that fails has `error` set.

        Raises UsageError before any work if a request is wrong in itself (task, language, voice).
        """
        listed = list(check_requests(requests))
        for request in listed:
            self._front_end.check(request, params_of(request, params))
        results: dict[int, Result] = {}
        for index, result in self._run(enumerate(listed), params, SlowStart(len(listed) + 1)):
            results[index] = result
        return [results[i] for i in range(len(listed))]

    def stream(
        self, requests: Iterable[Request], params: DecodingParams | None = None
    ) -> Generator[Result, None, None]:
        """Answer requests as they are drawn from an iterable, in order of completion.

        Holds a bounded number of requests at a time, so the iterable may be endless. A request that is wrong in itself
        gives a result with `error` set, like any other failure.
        """
        for _, result in self._run(enumerate(check_requests(requests)), params, SlowStart()):
            yield result

    def stream_audio(
        self, request: Request, params: DecodingParams | None = None
    ) -> Generator[np.ndarray, None, Result]:
        """The speech of one request, float32 [samples] at a time as the vocoder makes them.

        The pieces together are the `audio` that `generate` gives for the best hypothesis, to the last bit. What the
        generator returns at its end (`result = yield from engine.stream_audio(...)`) is the Result without that audio.
        Closing it early drops the request. `timeout` counts until the text is there.

        Raises UsageError at once if the request is wrong in itself or has no speech, and, while it is read, the error
        that `generate` would put into the result.
        """
        chosen = params_of(request, params)
        if request.task not in SPEECH_OUT:
            raise UsageError(f"{request.task} produces text: stream_audio is for {' and '.join(sorted(SPEECH_OUT))}")
        self._front_end.check(request, chosen)
        return self._stream_audio(request, chosen)

    def _stream_audio(self, request: Request, params: DecodingParams) -> Generator[np.ndarray, None, Result]:
        loop, done = self._loop, deque[Job]()
        result = Result(request.id if request.id is not None else 0, request.task, request.tgt_lang)
        job = self._front_end.prepare(request, params, result)
        job.outbox, job.streams = done, True
        loop.submit(job)
        try:
            while not done:
                loop.step()
        finally:
            if not done:
                loop.drop(job)
        raise_failure(result)
        assert self._runner.speech is not None
        loop.settle()
        try:
            for samples in self._runner.speech.stream(job):
                yield samples
                loop.settle()  # the caller may have served others in between
        except Exception as error:
            raise settled(error) from None
        result.units = result.n_best[0].units
        result.timings["total"] = time.perf_counter() - job.started
        return result

    def _run(
        self, source: Iterator[tuple[int, Request]], params: DecodingParams | None, start: SlowStart
    ) -> Iterator[tuple[int, Result]]:
        loop = self._loop
        ahead: deque[tuple[int, Result, Future[Job | Exception]]] = deque()
        mine: dict[Job, int] = {}
        done: deque[Job] = deque()
        drawn = 0
        exhausted = False
        try:
            while True:
                answered = drawn - len(mine) - len(ahead)
                while not exhausted and start.allows(drawn, answered) and self._reads_more(ahead):
                    following = next(source, None)
                    if following is None:
                        exhausted = True
                        break
                    drawn += 1
                    index, request = following
                    chosen = params_of(request, params)
                    result = Result(request.id if request.id is not None else index, request.task, request.tgt_lang)
                    read = partial(self._read, request, chosen, result, done)
                    ahead.append((index, result, self._reading.start(read)))
                # What is not read yet is only waited for when nothing else can be done.
                if ahead and loop.wants_more and (ahead[0][2].done() or not loop.running):
                    index, result, reading = ahead.popleft()
                    job = reading.result()
                    try:
                        if isinstance(job, Exception):
                            raise job
                        loop.submit(job)
                        mine[job] = index
                    except Exception as error:  # whatever it is, only this request has it
                        yield index, failed(result, settled(error))
                    continue
                if not (mine or ahead) and exhausted:
                    return
                loop.step()
                while done:
                    job = done.popleft()
                    yield mine.pop(job), job.result
        finally:
            for *_, reading in ahead:
                reading.cancel()
            for job in mine:
                loop.drop(job)

    def _read(self, request: Request, params: DecodingParams, result: Result, outbox: deque[Job]) -> Job | Exception:
        try:
            self._front_end.check(request, params)
            job = self._front_end.prepare(request, params, result)
        except Exception as error:
            return error
        job.outbox = outbox
        return job

    def _reads_more(self, ahead: deque[tuple[int, Result, Future[Job | Exception]]]) -> bool:
        """Whether to draw another request: for the loop, and where a thread reads, for one encoder pass after that."""
        wanted = self._loop.wants_more
        if not ahead:
            return wanted
        if isinstance(self._reading, InTurn) or (wanted and ahead[0][2].done()):
            return False
        read = [future.result() for *_, future in ahead if future.done()]
        rows = sum(job.source_rows for job in read if isinstance(job, Job))
        room = len(ahead) < self.options.max_rows and len(ahead) - len(read) < _UNREAD
        return room and rows < self.options.encode_frames


def _tasks(names: Iterable[str] | None) -> tuple[Task, ...]:
    if names is None:
        return TASKS
    if isinstance(names, str):
        names = [names]
    wanted = [name.lower() for name in names]
    unknown = [name for name in wanted if name not in TASKS]
    if unknown or not wanted:
        raise UsageError(f"unknown task {', '.join(unknown) or '(none given)'}: use {', '.join(TASKS)}")
    return tuple(task for task in TASKS if task in wanted)


def resolve_device(device: str | torch.device) -> torch.device:
    """The device of "auto", or the one that is named. Raises UsageError if the engine does not run there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device {device!r}: {error}") from None
    if where.type not in ("cpu", "cuda") or (where.type == "cuda" and not torch.cuda.is_available()):
        raise UsageError(f"device {str(where)!r} is not available here: use 'cpu' or, with an NVIDIA card, 'cuda'")
    if where.type == "cuda" and where.index is None:
        where = torch.device("cuda", torch.cuda.current_device())  # that of later calls may be another
    if where.type == "cuda" and os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        raise UsageError("TRITON_INTERPRET=1 runs kernels in an interpreter on the CPU: unset it to use the GPU")
    try:
        backend_for(torch.empty(0, device=where), {"torch": None})
    except ValueError as error:
        raise UsageError(str(error)) from None
    return where


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of "auto" on a device, or the one that is named. Raises UsageError for any other."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    precision = _DTYPES.get(str(dtype).removeprefix("torch."))
    if precision is None:
        raise UsageError(f"dtype {dtype!r}: use one of {', '.join(_DTYPES)}, or 'auto'")
    return precision
