"""The loop: admit → encode → decode → speak → deliver."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from seamless_engine.audio import load_audio
from seamless_engine.config import EngineConfig, ModelConfig
from seamless_engine.decode.scheduler import Job, Scheduler, Voice
from seamless_engine.errors import CapacityError, InputError, NumericalError, UsageError
from seamless_engine.forward import forced_logits
from seamless_engine.languages import Languages
from seamless_engine.loader import find_checkpoint
from seamless_engine.model_runner import ModelRunner
from seamless_engine.prepared import Features, Tokens
from seamless_engine.recovery import isolate, settled
from seamless_engine.request import SPEECH_IN, SPEECH_OUT, TASKS, DecodingParams, Hypothesis, Request, Result, Task
from seamless_engine.tokenizer import Tokenizer
from seamless_kernels.dispatch import backend_for
from seamless_kernels.fbank import frame_count

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_ADVICE = "check its input, and the weights with Engine.from_pretrained(..., check_weights=True)"


class Engine:
    """A loaded model that answers requests. Not thread-safe: one thread owns an engine."""

    def __init__(
        self, runner: ModelRunner, tokenizer: Tokenizer, options: EngineConfig, tasks: tuple[Task, ...]
    ) -> None:
        self.config: ModelConfig = runner.config
        self.options = options
        self.tasks = tasks
        self._runner = runner
        self._tokenizer = tokenizer
        self._languages = Languages(runner.config)
        self._speak_tokens = options.speak_tokens or (512 if runner.device.type == "cuda" else 1)

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
    ) -> Engine:
        """Load a checkpoint in the transformers format.

        path: a folder, or a hub id (found in the cache when offline).
        tasks: loads only the modules that these need; None is all five.
        device: "auto" is cuda where there is one, else cpu.
        dtype: "auto" is bfloat16 on cuda, float32 on a CPU.
        check_weights: refuse a checkpoint that has NaN or infinite values, and name the tensors.

        Raises CheckpointError for a checkpoint that cannot be used, UsageError for an argument that cannot.
        """
        options = options or EngineConfig()
        where = _device(device)
        precision = _dtype(dtype, where)
        chosen = _tasks(tasks)
        folder = find_checkpoint(path)
        config = ModelConfig.from_folder(folder)
        tokenizer = Tokenizer.from_folder(folder, config)
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
        return self._languages.codes(_tasks([task])[0])

    def memory(self) -> dict[str, int]:
        """Bytes by holder: weights of each module, the key/value pool, the decoding buffers."""
        return self._runner.memory()

    def forced_logits(self, source: Features | Tokens, tokens: Sequence[int]) -> torch.Tensor:
        """float32 [len(tokens), vocab]: what the decoder expects after each of the tokens it is made to read."""
        return forced_logits(self._runner, source, tokens)

    def generate(self, requests: Iterable[Request], params: DecodingParams | None = None) -> list[Result]:
        """Answer all requests; results in input order, one each. A request that fails has `error` set.

        Raises UsageError before any work if a request is wrong in itself (task, language, voice).
        """
        listed = list(requests)
        for request in listed:
            self._check(request, request.params or params or DecodingParams())
        results: dict[int, Result] = {}
        for index, result in self._run(enumerate(listed), params or DecodingParams()):
            results[index] = result
        return [results[i] for i in range(len(listed))]

    def stream(
        self, requests: Iterable[Request], params: DecodingParams | None = None
    ) -> Generator[Result, None, None]:
        """Answer requests as they are drawn from an iterable, in order of completion.

        Holds a bounded number of requests at a time, so the iterable may be endless. A request that is wrong in itself
        gives a result with `error` set, like any other failure.
        """
        for _, result in self._run(enumerate(requests), params or DecodingParams()):
            yield result

    def _run(self, source: Iterator[tuple[int, Request]], params: DecodingParams) -> Iterator[tuple[int, Result]]:
        scheduler = Scheduler(self._runner.blocks, self.options.encode_frames, self._speak_tokens)
        indices: dict[int, int] = {}
        exhausted = False
        try:
            while True:
                while not exhausted and scheduler.wants_more:
                    drawn = next(source, None)
                    if drawn is None:
                        exhausted = True
                        break
                    index, request = drawn
                    result = Result(request.id if request.id is not None else index, request.task, request.tgt_lang)
                    try:
                        self._check(request, request.params or params)
                        job = self._prepare(request, request.params or params, result)
                        scheduler.submit(job)
                        indices[job.serial] = index
                    except Exception as error:  # whatever it is, only this request has it
                        yield index, _failed(result, settled(error))
                if not scheduler.busy:
                    return
                for job in self._step(scheduler):
                    yield indices.pop(job.serial), job.result
        finally:
            for job in [*scheduler.decoding]:
                scheduler.drop(job)

    def _step(self, scheduler: Scheduler) -> Iterator[Job]:
        """One turn of the loop. Yields the requests that it finished."""
        runner = self._runner
        admitted = scheduler.admit()
        if admitted:
            begun = time.perf_counter()
            failed = isolate(runner.encode, admitted)
            spent = time.perf_counter() - begun
            for job, _ in admitted:
                job.result.timings |= {"queued": begun - job.started, "encode": spent, "decode": 0.0}
            for (job, _), error in failed:
                scheduler.drop(job)
                yield self._delivered(job, error)
        if scheduler.decoding:
            yield from self._decode(scheduler)
        elif scheduler.waiting and not scheduler.speaking and not admitted:
            job = scheduler.waiting[0]
            scheduler.drop(job)
            error = CapacityError(
                "another stream of this engine holds its rows or slots: read it to its end, or close it"
            )
            yield self._delivered(job, error)
        spoken = scheduler.next_speech()
        if spoken:
            begun = time.perf_counter()
            errors = dict(isolate(runner.speak, spoken))
            for job in spoken:
                job.result.timings["speak"] = time.perf_counter() - begun
                yield self._delivered(job, errors.get(job))

    def _decode(self, scheduler: Scheduler) -> Iterator[Job]:
        begun = time.perf_counter()
        jobs = list(scheduler.decoding)
        over, broken = self._runner.decode(jobs)
        spent = time.perf_counter() - begun
        for job in jobs:
            job.result.timings["decode"] += spent
        for job in broken:
            scheduler.drop(job)
            yield self._delivered(job, NumericalError(f"the model produced NaN for this request; {_ADVICE}"))
        for job in over:
            speaks = job.request.task in SPEECH_OUT
            self._runner.finish(job)
            scheduler.retire(job, speaks)
            if not speaks:
                yield self._delivered(job)

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
            _failed(result, error)
        elif job.voice is not None:
            result.sampling_rate = self.config.sampling_rate
        return job

    def _check(self, request: Request, params: DecodingParams) -> None:
        """Raises UsageError if this engine cannot answer such a request at all."""
        if request.task not in self.tasks:
            raise UsageError(f"{request.task} was not loaded: this engine was made for tasks {', '.join(self.tasks)}")
        self._languages.resolve(request.task, request.tgt_lang)
        if request.src_lang is not None:
            self._languages.source_id(request.src_lang)
        if request.speaker_id is not None and request.speaker_id >= self.config.vocoder_num_spkrs:
            raise UsageError(
                f"speaker_id {request.speaker_id}: this checkpoint has 0 to {self.config.vocoder_num_spkrs - 1}"
            )
        words = [params.suppress_tokens or (), *(params.bad_words_ids or ())]
        largest = max((token for word in words for token in word), default=0)
        if largest >= self.config.vocab_size:
            raise UsageError(
                f"suppress_tokens or bad_words_ids name token {largest}: this checkpoint has 0 to "
                f"{self.config.vocab_size - 1}"
            )

    def _prepare(self, request: Request, params: DecodingParams, result: Result) -> Job:
        """The front end of one request. Raises InputError for audio or text that cannot be processed."""
        started = time.perf_counter()
        result.tgt_lang = self._languages.resolve(request.task, request.tgt_lang)
        source, rows, length = self._source(request)
        if length > self.options.max_source_tokens:
            limit = self.options.max_source_tokens
            unit = "encodings" if request.task in SPEECH_IN else "tokens"
            raise CapacityError(
                f"the input has {length} {unit}, more than EngineConfig.max_source_tokens={limit}: split the input, "
                "or raise the setting"
            )
        max_new_tokens = params.max_new_tokens or self.config.max_new_tokens
        if params.soft_max_length is not None:
            slope, offset = params.soft_max_length
            max_new_tokens = max(min(max_new_tokens, int(slope * length + offset)), 1)
        if max_new_tokens > self.options.max_new_tokens:
            limit = self.options.max_new_tokens
            raise CapacityError(f"max_new_tokens={max_new_tokens} exceeds EngineConfig.max_new_tokens={limit}")
        return Job(
            request=request,
            params=params,
            result=result,
            source=source,
            source_rows=rows,
            source_length=length,
            max_new_tokens=max_new_tokens,
            language_id=self._languages.target_id(request.task, result.tgt_lang),
            voice=self._voice(request, params, result.tgt_lang) if request.task in SPEECH_OUT else None,
            started=started,
        )

    def _source(self, request: Request) -> tuple[Any, int, int]:
        """What the encoder reads, how many rows that is, and how many encodings it becomes."""
        if request.task in SPEECH_IN:
            if isinstance(request.audio, Features):
                source, rows, valid = request.audio, len(request.audio.rows), request.audio.valid
            else:
                source = load_audio(request.audio, request.sampling_rate, max_seconds=self.options.max_audio_seconds)
                frames = frame_count(len(source))
                rows, valid = -(-frames // 2), frames // 2
            return source, rows, valid // self.config.adaptor_stride + 1
        if isinstance(request.text, Tokens):
            ids = request.text.ids
        else:
            assert request.text is not None and request.src_lang is not None
            ids = self._tokenizer.encode(request.text, request.src_lang)
        return ids, len(ids), len(ids)

    def _voice(self, request: Request, params: DecodingParams, language: str) -> Voice:
        speaker = request.speaker_id
        if speaker is None:
            speaker = self._languages.speaker_id(language) if params.speaker_per_language else 0
        return Voice(self._languages.voice_id(language), speaker)


def _failed(result: Result, error: Exception) -> Result:
    result.finish_reason = "error"
    result.error = f"{type(error).__name__}: {error}"
    return result


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


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device {device!r}: {error}") from None
    try:
        backend_for(torch.empty(0), {"torch": None})
    except ValueError as error:
        raise UsageError(str(error)) from None
    if where.type not in ("cpu", "cuda") or (where.type == "cuda" and not torch.cuda.is_available()):
        raise UsageError(f"device {str(where)!r} is not available here: use 'cpu' or, with an NVIDIA card, 'cuda'")
    if where.type == "cuda" and os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        raise UsageError("TRITON_INTERPRET=1 runs kernels in an interpreter on the CPU: unset it to use the GPU")
    return where


def _dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    precision = _DTYPES.get(str(dtype).removeprefix("torch."))
    if precision is None:
        raise UsageError(f"dtype {dtype!r}: use one of {', '.join(_DTYPES)}, or 'auto'")
    return precision
