"""The front end: a request, checked, with its audio or text read, becomes a job."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from seamless_engine.config import EngineConfig, ModelConfig
from seamless_engine.errors import CapacityError, UsageError
from seamless_engine.inputs.languages import Languages
from seamless_engine.inputs.tokenizer import Tokenizer
from seamless_engine.job import Job, Voice
from seamless_engine.model_inputs import Features, Tokens
from seamless_engine.request import SPEECH_IN, SPEECH_OUT, DecodingParams, Request, Result, Task, check_params

UNK = 1
_TRAINED_TEXT = 512  # tokens: the longest inputs of NLLB-200, from which the text encoder was made, by its model card


def check_requests(requests: Any, iterable: Any = Iterable) -> Any:
    """`requests`, which are to be an `iterable` of them. Raises UsageError for a single one, a path and all else."""
    if not isinstance(requests, iterable) or isinstance(requests, Request | str | bytes | os.PathLike | Mapping):
        raise UsageError(
            'requests must be a list of Request, for example [Request("asr", "eng", audio="clip.wav")], not '
            f"{type(requests).__name__}"
        )
    return requests


def params_of(request: Request, params: DecodingParams | None) -> DecodingParams:
    """The request's own parameters, else those of the call, else the defaults. Raises UsageError for other types."""
    if not isinstance(request, Request):
        raise UsageError(
            f'each request must be a Request, for example Request("asr", "eng", audio="clip.wav"), not {request!r}'
        )
    check_params(request.params)
    check_params(params)
    return request.params or params or DecodingParams()


class Preprocessor:
    """Touches no weight and no pool, so any thread may use it."""

    def __init__(
        self, config: ModelConfig, options: EngineConfig, tasks: tuple[Task, ...], tokenizer: Tokenizer
    ) -> None:
        self.config = config
        self.options = options
        self.tasks = tasks
        self.tokenizer = tokenizer
        self.languages = Languages(config)

    def check(self, request: Request, params: DecodingParams) -> None:
        """Raises UsageError if this engine cannot answer such a request at all."""
        if request.task not in self.tasks:
            raise UsageError(f"{request.task} was not loaded: this engine was made for tasks {', '.join(self.tasks)}")
        self.languages.resolve(request.task, request.tgt_lang)
        if request.src_lang is not None:
            self.languages.source_id(request.src_lang)
        if request.speaker_id is not None and request.speaker_id >= self.config.vocoder_num_spkrs:
            raise UsageError(
                f"speaker_id {request.speaker_id}: this checkpoint has 0 to {self.config.vocoder_num_spkrs - 1}"
            )
        words = params.bad_words(self.config.eos_token_id, UNK)
        if sum(map(len, words)) > self.options.max_bad_word_tokens:
            raise UsageError(
                f"suppress_tokens and bad_words_ids have {sum(map(len, words))} tokens, more than "
                f"EngineConfig.max_bad_word_tokens={self.options.max_bad_word_tokens}: shorten them, or raise it"
            )
        largest = max((token for word in words for token in word), default=0)
        if largest >= self.config.vocab_size:
            raise UsageError(
                f"suppress_tokens or bad_words_ids name token {largest}: this checkpoint has 0 to "
                f"{self.config.vocab_size - 1}"
            )

    def prepare(self, request: Request, params: DecodingParams, result: Result) -> Job:
        """The front end of one request. Raises InputError for audio or text that cannot be processed."""
        started = time.perf_counter()
        result.tgt_lang = self.languages.resolve(request.task, request.tgt_lang)
        source, rows, length = self._source(request, result.warnings.append)
        if length > self.options.max_source_tokens:
            limit = self.options.max_source_tokens
            unit = "encodings" if request.task in SPEECH_IN else "tokens"
            raise CapacityError(
                f"the input has {length} {unit}, more than EngineConfig.max_source_tokens={limit}: split the input, "
                "or raise the setting"
            )
        trained = min(_TRAINED_TEXT, self.config.max_position_embeddings)
        if request.task not in SPEECH_IN and length > trained:
            result.warnings.append(
                f"the text has {length} tokens, and the model was made for at most {trained}: parts may be missing "
                "in the answer. Split the text into sentences"
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
            num_tokens=rows,
            encoder_length=length,
            max_new_tokens=max_new_tokens,
            language_id=self.languages.target_id(request.task, result.tgt_lang),
            voice=self._voice(request, params, result.tgt_lang) if request.task in SPEECH_OUT else None,
            started=started,
            deadline=None if request.timeout is None else started + request.timeout,
            bad_words=params.bad_words(self.config.eos_token_id, UNK),
        )

    def _source(self, request: Request, warn: Callable[[str], object]) -> tuple[Any, int, int]:
        """What the encoder reads, how many rows that is, and how many encodings it becomes."""
        if request.task in SPEECH_IN:
            if isinstance(request.audio, Features):
                source, rows, valid = request.audio, len(request.audio.rows), request.audio.valid
            else:
                from seamless_engine.inputs.audio import load_audio  # these import torch, which a check does not need
                from seamless_kernels.fbank import frame_count

                source = load_audio(
                    request.audio,
                    request.sampling_rate,
                    max_seconds=self.options.max_audio_seconds,
                    warn=warn,
                )
                frames = frame_count(len(source))
                rows, valid = -(-frames // 2), frames // 2
            return source, rows, valid // self.config.adaptor_stride + 1
        if isinstance(request.text, Tokens):
            ids = request.text.ids
        else:
            assert request.text is not None and request.src_lang is not None
            ids = self.tokenizer.encode(request.text, request.src_lang)
        return ids, len(ids), len(ids)

    def _voice(self, request: Request, params: DecodingParams, language: str) -> Voice:
        speaker = request.speaker_id
        if speaker is None:
            speaker = self.languages.speaker_id(language) if params.speaker_per_language else 0
        return Voice(self.languages.voice_id(language), speaker)
