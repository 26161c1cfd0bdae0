"""The preprocessor: checks a request, reads its audio or text, and makes a job of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from seamless_engine.config import EngineConfig, ModelConfig
from seamless_engine.errors import CapacityError, UsageError
from seamless_engine.inputs.languages import TargetLanguage
from seamless_engine.inputs.tokenizer import Tokenizer
from seamless_engine.job import Job, Voice
from seamless_engine.model_inputs import Features, Tokens
from seamless_engine.models.lengths import encoder_length, packed_frames
from seamless_engine.request import SPEECH_IN, DecodingParams, Request, Result, Task, check_params

UNK = 1
_TRAINED_TEXT = 512  # tokens: the longest inputs of NLLB-200 by its model card; the text encoder was trained from it


def check_requests(requests: Any, iterable: Any = Iterable) -> Any:
    """`requests` itself, if it is an `iterable` that can hold requests. Raises UsageError for anything else, such as a
    single request or a path."""
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


@dataclass(frozen=True)
class _Resolved:
    """What a check finds out about a request. source_id: of the language of its text, if it has one."""

    target: TargetLanguage
    source_id: int | None
    bad_words: tuple[tuple[int, ...], ...]


class Preprocessor:
    """Several threads may use it at once: it uses no weights and changes nothing."""

    def __init__(
        self, config: ModelConfig, options: EngineConfig, tasks: tuple[Task, ...], tokenizer: Tokenizer
    ) -> None:
        self.config = config
        self.options = options
        self.tasks = tasks
        self.tokenizer = tokenizer
        self.languages = tokenizer.languages

    def check(self, request: Request, params: DecodingParams) -> None:
        """Raises UsageError if the engine cannot answer such a request at all. `prepare` does so as well.

        This reads neither audio nor text, and imports no torch.
        """
        self._resolve(request, params)

    def checked(self, requests: Request | Iterable[Request], params: DecodingParams | None) -> list[Request]:
        """One request, or all of several, as a list. Raises UsageError as `check`, and for what holds no requests."""
        listed = [requests] if isinstance(requests, Request) else list(check_requests(requests))
        for request in listed:
            self.check(request, params_of(request, params))
        return listed

    def _resolve(self, request: Request, params: DecodingParams) -> _Resolved:
        if request.task not in self.tasks:
            raise UsageError(f"{request.task} was not loaded: this engine was made for tasks {', '.join(self.tasks)}")
        target = self.languages.target(request.task, request.tgt_lang)
        source_id = None if request.src_lang is None else self.languages.source_id(request.src_lang)
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
        return _Resolved(target, source_id, words)

    def prepare(self, request: Request, params: DecodingParams, result: Result) -> Job:
        """Check a request and read its input. Raises UsageError as `check`, InputError for audio or text that cannot be
        processed."""
        started = time.perf_counter()
        resolved = self._resolve(request, params)
        result.tgt_lang = resolved.target.code
        source, num_tokens, length = self._read(request, resolved.source_id, result.warnings.append)
        if length > self.options.max_source_tokens:
            limit = self.options.max_source_tokens
            unit = "encoder states" if request.task in SPEECH_IN else "tokens"
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
            num_tokens=num_tokens,
            encoder_length=length,
            max_new_tokens=max_new_tokens,
            language_id=resolved.target.token_id,
            voice=_voice(request, params, resolved.target),
            started=started,
            bad_words=resolved.bad_words,
        )

    def _read(self, request: Request, source_id: int | None, warn: Callable[[str], object]) -> tuple[Any, int, int]:
        """The encoder's input, its length in packed frames or tokens, and the length of the encoder states."""
        if request.task in SPEECH_IN:
            if isinstance(request.audio, Features):
                source, num_frames, num_whole = request.audio, len(request.audio.frames), request.audio.valid
            else:
                from seamless_engine.inputs.audio import load_audio  # imports torch, which a check does not need

                limit = self.options.max_audio_seconds
                source = load_audio(request.audio, request.sampling_rate, max_seconds=limit, warn=warn)
                num_frames, num_whole = packed_frames(len(source))
            return source, num_frames, encoder_length(num_whole, self.config.adaptor_stride)
        if isinstance(request.text, Tokens):
            ids = request.text.ids
        else:
            assert request.text is not None and source_id is not None
            ids = self.tokenizer.encode_from(request.text, source_id)
        return ids, len(ids), len(ids)


def _voice(request: Request, params: DecodingParams, target: TargetLanguage) -> Voice | None:
    if target.vocoder_id is None:
        return None
    speaker = request.speaker_id
    if speaker is None:
        speaker = target.speaker_id if params.speaker_per_language else 0
    return Voice(target.vocoder_id, speaker)
