"""The preprocessor: checks a request, reads its audio or text, and makes a job of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from seamless_engine.config import EngineConfig, ModelConfig
from seamless_engine.errors import CapacityError, UsageError
from seamless_engine.inputs.languages import TargetLanguage
from seamless_engine.inputs.pieces import Piece, Reader
from seamless_engine.inputs.tokenizer import Tokenizer
from seamless_engine.job import Job, Voice
from seamless_engine.request import SPEECH_IN, DecodingParams, Request, Result, Task, check_params
from seamless_engine.source import Clip

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
        self._max_text = min(_TRAINED_TEXT, config.max_position_embeddings)
        self._reader = Reader(tokenizer, options, config.adaptor_stride, self._max_text)

    def close(self) -> None:
        """End the processes that decode audio. No more audio can be read."""
        self._reader.close()

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

    def prepare(self, request: Request, params: DecodingParams, result: Result, clip: Clip | None = None) -> list[Job]:
        """Check a request and read its input. Returns its job; or the jobs of its segments, each with a result of its
        own: none if the clip has no speech.

        clip: what the request shares with others in flight. Raises UsageError as `check`, InputError for audio or text
        that cannot be processed.
        """
        started = time.perf_counter()
        resolved = self._resolve(request, params)
        result.tgt_lang = resolved.target.code
        pieces = self._reader.pieces(request, resolved.source_id, result, clip or Clip())
        whole = len(pieces) == 1 and pieces[0].segment is None
        if not whole and params.num_return_sequences > 1:
            raise UsageError("the segments of a long input have one text each: leave out num_return_sequences")
        results = [result if whole else Result(result.id, result.task, result.tgt_lang) for _ in pieces]
        return [
            self._job(request, params, own, resolved, piece, started)
            for own, piece in zip(results, pieces, strict=True)
        ]

    def _job(
        self,
        request: Request,
        params: DecodingParams,
        result: Result,
        resolved: _Resolved,
        piece: Piece,
        started: float,
    ) -> Job:
        length = piece.encoder_length
        if length > self.options.max_source_tokens:
            limit = self.options.max_source_tokens
            unit = "encoder states" if request.task in SPEECH_IN else "tokens"
            raise CapacityError(
                f"the input has {length} {unit}, more than EngineConfig.max_source_tokens={limit}: split the input, "
                "or raise the setting"
            )
        if request.task not in SPEECH_IN and length > self._max_text:
            result.warnings.append(
                f"the text has {length} tokens, and the model was made for at most {self._max_text}: parts may be "
                "missing in the answer. segment=True splits it into sentences"
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
            source=piece.source,
            num_tokens=piece.num_tokens,
            encoder_length=length,
            max_new_tokens=max_new_tokens,
            language_id=resolved.target.token_id,
            voice=_voice(request, params, resolved.target),
            started=started,
            bad_words=resolved.bad_words,
            segment=piece.segment,
            separator=piece.separator,
        )


def _voice(request: Request, params: DecodingParams, target: TargetLanguage) -> Voice | None:
    if target.vocoder_id is None:
        return None
    speaker = request.speaker_id
    if speaker is None:
        speaker = target.speaker_id if params.speaker_per_language else 0
    return Voice(target.vocoder_id, speaker)
