"""A loaded model that answers requests."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, overload

import numpy as np
import torch

from seamless_engine import calls
from seamless_engine.config import EngineConfig, ModelConfig
from seamless_engine.core import Core
from seamless_engine.device import on, resolve_device, resolve_dtype
from seamless_engine.engine_thread import EngineThread
from seamless_engine.errors import UsageError
from seamless_engine.forward import encode, forced_logits
from seamless_engine.inputs.preprocess import Preprocessor, check_requests, params_of
from seamless_engine.inputs.tokenizer import Tokenizer
from seamless_engine.loading.loader import find_checkpoint
from seamless_engine.model_inputs import ModelInputs
from seamless_engine.model_runner import ModelRunner
from seamless_engine.neutral import neutral
from seamless_engine.request import SPEECH_OUT, TASKS, DecodingParams, Request, Result, Task
from seamless_engine.scheduler import SlowStart


class Engine:
    """A loaded model that answers requests.

    Several threads may call it at once, and a thread may call it while its own `stream` or `stream_audio` is suspended:
    each call gets what it would get alone, and requests of all calls share batches. The exception of a signal handler
    ends the call that it interrupts and no other. A forked child has to load an engine of its own.

    `with` closes the engine.
    """

    def __init__(
        self, runner: ModelRunner, tokenizer: Tokenizer, options: EngineConfig, tasks: tuple[Task, ...]
    ) -> None:
        self.config: ModelConfig = runner.config
        self.options = options
        self.tasks = tasks
        self.preprocessor = Preprocessor(runner.config, options, tasks, tokenizer)
        # While a GPU computes, a thread reads what comes next. On a CPU they would share the cores. Where processes
        # decode, a file that hangs must not keep the others waiting.
        ahead = runner.device.type == "cuda" or options.decode_processes > 0
        self.thread = EngineThread(Core(runner, self.preprocessor, options), reads_ahead=ahead)

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
        with neutral(), on(where):
            runner = ModelRunner(folder, config, options, chosen, where, precision, check_weights)
            if where.type == "cuda":
                torch.cuda.synchronize()  # the model runs in another thread, and on another stream than the caller's
            return cls(runner, tokenizer, options, chosen)

    def close(self) -> None:
        """Free the model. Calls that are underway, and all later ones, raise EngineClosedError; a second close does
        nothing.

        Raises UsageError while an AsyncEngine has the engine.
        """
        self.thread.close()
        self.preprocessor.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's: text to the tokens that the text encoder reads, and generated tokens to text."""
        return self.preprocessor.tokenizer

    @property
    def core(self) -> Core:
        """The scheduler and the model. Only `thread` may step it. Raises EngineClosedError."""
        return self.thread.core

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.core.runner.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.core.runner.decoder.embedding.dtype

    @property
    def weight_bytes(self) -> dict[str, int]:
        """Bytes of weights that were loaded, by module."""
        return dict(self.core.runner.weight_bytes)

    def languages(self, task: str) -> list[str]:
        """Codes that `tgt_lang` may take for a task, from the checkpoint's own tables."""
        return self.preprocessor.languages.codes(_tasks([task])[0])

    def memory(self) -> dict[str, int]:
        """Bytes by holder: weights of each module, the key/value pool, the decoding buffers.

        On a GPU also `passes`, what the largest encoder or synthesis pass takes while it runs, and `graphs`, what
        captured graphs read and compute; their nodes, which the driver keeps, are not counted.
        """
        return self.core.runner.memory()

    def forced_logits(self, source: ModelInputs, tokens: Sequence[int]) -> torch.Tensor:
        """float32 [len(tokens), vocab]: what the decoder expects after each of the tokens it is made to read."""
        return self._work(lambda: forced_logits(self.core.runner, source, tokens))

    def encode(self, source: ModelInputs) -> torch.Tensor:
        """[length, hidden] in the engine's dtype: the encoder states of one input."""
        return self._work(lambda: encode(self.core.runner, source))

    def _work(self, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        def work() -> torch.Tensor:
            with on(self.device):
                result = compute()
                if self.device.type == "cuda":
                    torch.cuda.synchronize()  # the caller's stream is another one
                return result

        with self.thread.called():
            return self.thread.call(work)

    @overload
    def generate(self, requests: Iterable[Request], params: DecodingParams | None = None) -> list[Result]: ...
    @overload
    def generate(self, requests: Request, params: DecodingParams | None = None) -> Result: ...
    def generate(
        self, requests: Request | Iterable[Request], params: DecodingParams | None = None
    ) -> Result | list[Result]:
        """Answer one request, or all of several: one result each, in input order. A request that fails has `error` set.

        Raises UsageError before any work if a request is wrong in itself (task, language, voice); EngineClosedError.
        """
        listed = self.preprocessor.checked(requests, params)
        found = dict(calls.run(self.thread, iter(listed), params, SlowStart(len(listed) + 1), batch=True))
        return found[0] if isinstance(requests, Request) else [found[index] for index in range(len(listed))]

    def transcribe(self, audio: Any, lang: str, params: DecodingParams | None = None, **fields: Any) -> Result:
        """The text of a speech in its own language, however long it is.

        fields: others of `Request`, such as sampling_rate. `segment` is "auto" unless it is given.
        """
        fields.setdefault("segment", "auto")
        return self.generate(Request("asr", lang, audio=audio, **fields), params)

    def translate(self, *, tgt_lang: str, params: DecodingParams | None = None, **fields: Any) -> Result:
        """The text of a speech or a text in another language.

        fields: `audio`, or `text` and `src_lang`, and others of `Request`.
        """
        task = "s2tt" if fields.get("audio") is not None else "t2tt"
        return self.generate(Request(task, tgt_lang, **fields), params)

    def synthesize(self, *, tgt_lang: str, params: DecodingParams | None = None, **fields: Any) -> Result:
        """The speech of a speech or a text in another language, and its text.

        fields: `audio`, or `text` and `src_lang`, and others of `Request`, such as speaker_id.
        """
        task = "s2st" if fields.get("audio") is not None else "t2st"
        return self.generate(Request(task, tgt_lang, **fields), params)

    def stream(
        self, requests: Iterable[Request], params: DecodingParams | None = None
    ) -> Generator[Result, None, None]:
        """Answer requests as they are pulled from an iterable, in order of completion.

        Holds a bounded number of requests at a time, so the iterable may be endless. The thread that asks for a result
        pulls from it; a request, its buffers and its file object are the caller's again when the next one is pulled. A
        request that is wrong in itself gives a result with `error` set, like any other failure.

        Raises EngineClosedError, and what the iterable raises.
        """
        given = iter(check_requests(requests))
        for _, result in calls.run(self.thread, given, params, SlowStart(), batch=False):
            yield result

    def stream_audio(
        self, request: Request, params: DecodingParams | None = None
    ) -> Generator[np.ndarray, None, Result]:
        """The speech of one request, float32 [samples] at a time as the vocoder makes them.

        The pieces together are the `audio` that `generate` gives for the best hypothesis, to the last bit. What the
        generator returns at its end (`result = yield from engine.stream_audio(...)`) is the Result without that audio.
        Closing it early drops the request. `timeout` counts until the text is there.

        Raises UsageError at once if the request is wrong in itself or has no speech, and, while it is read, the error
        that `generate` would put into the result; EngineClosedError.
        """
        chosen = params_of(request, params)
        if request.task not in SPEECH_OUT:
            raise UsageError(f"{request.task} produces text: stream_audio is for {' and '.join(sorted(SPEECH_OUT))}")
        if request.segment is not None:
            raise UsageError("stream_audio speaks an input as a whole: leave out segment")
        self.preprocessor.check(request, chosen)
        return calls.stream_audio(self.thread, request, chosen)


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
