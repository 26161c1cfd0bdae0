"""What is asked (Request), how to decode it (DecodingParams), and what comes back (Result)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

from seamless_engine import values
from seamless_engine.errors import SeamlessError, UsageError
from seamless_engine.model_inputs import Tokens

if TYPE_CHECKING:
    import numpy as np

    from seamless_engine.segmentation.options import Segmentation

Task = Literal["asr", "s2tt", "s2st", "t2tt", "t2st"]
TASKS: tuple[Task, ...] = get_args(Task)
SPEECH_IN: frozenset[Task] = frozenset({"asr", "s2tt", "s2st"})
SPEECH_OUT: frozenset[Task] = frozenset({"s2st", "t2st"})

FinishReason = Literal["eos", "length", "no_speech", "error", "cancelled"]


@dataclass(frozen=True)
class DecodingParams:
    """How to choose the text, and the units of speech. Names and defaults are transformers'.

    num_beams: hypotheses kept at each step; 1 is greedy, or plain sampling with `do_sample`.
    max_new_tokens: limit on generated tokens, eos included; None takes the checkpoint's (256 for v2-large).
    soft_max_length: (a, b) lowers max_new_tokens to a · (length of the encoder's output) + b.
    min_new_tokens: eos may not be chosen before this many tokens were generated.
    length_penalty: a finished hypothesis scores `sum(log p) / length ** length_penalty`.
    early_stopping: True stops at `num_beams` finished hypotheses; False when the best running one cannot win at
        its present length; "never" when it cannot win at any length.
    repetition_penalty: the score of a token that was generated before is multiplied by it if negative, else divided.
    no_repeat_ngram_size: no n tokens in a row occur twice; 0 is off.
    bad_words_ids: token sequences that may not be completed.
    suppress_tokens: tokens that are never chosen.
    block_unk: the unknown token is never chosen.
    do_sample: sample tokens instead of taking the best; with beams, sample the candidates of each step.
    temperature: above 1 samples less likely tokens more often, below 1 more rarely.
    top_k: sample among the k most likely tokens; 0 is off.
    top_p: sample among the fewest most likely tokens that have this probability together; 1 is off.
    seed: the same one gives the same samples, in any batch.
    num_return_sequences: hypotheses to return, in `Result.n_best`: the best of the beams, or independent samples.
    return_token_logprobs: fill `token_logprobs`, the log-probability of each token under the model itself.
    vocoder_durations: let the vocoder's own predictor stretch the units, as transformers does; the original project
        does not, because the T2U model has given them their durations already.
    speaker_per_language: a request without a voice takes the target language's in place of voice 0.
    speech_do_sample, speech_temperature: sample the units; as in transformers, only at a temperature other than 1.

    Numbers may be NumPy's or tensors without dimensions, and lists may be arrays: the fields become plain Python.

    Raises UsageError for a value of another type or out of range.
    """

    num_beams: int = 1
    max_new_tokens: int | None = None
    min_new_tokens: int = 0
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] | None = None
    suppress_tokens: tuple[int, ...] | None = None
    block_unk: bool = False
    num_return_sequences: int = 1
    seed: int = 0
    return_token_logprobs: bool = False
    soft_max_length: tuple[float, int] | None = None
    vocoder_durations: bool = True
    speaker_per_language: bool = False
    speech_do_sample: bool = False
    speech_temperature: float = 1.0

    def __post_init__(self) -> None:
        values.check_fields(self, _CHECKS, _OPTIONAL)
        if self.num_return_sequences > self.num_beams and not (self.do_sample and self.num_beams == 1):
            raise UsageError(
                f"num_return_sequences={self.num_return_sequences} needs at least as many beams (num_beams is "
                f"{self.num_beams}), or do_sample with one beam"
            )

    @classmethod
    def meta(cls, **changes: Any) -> DecodingParams:
        """What the original project's `m4t_predict` does: beam 5, a limit of 200 tokens more than the encoder's output,
        no vocoder durations, each language's own voice. Each is a field; `changes` override them. What its networks do
        otherwise is no parameter of a request: `EngineConfig(reference="meta")`, see docs/as-trained.md."""
        preset: dict[str, Any] = {
            "num_beams": 5,
            "soft_max_length": (1, 200),
            "max_new_tokens": 1024,
            "vocoder_durations": False,
            "speaker_per_language": True,
        }
        return cls(**preset | changes)

    def bad_words(self, eos: int, unk: int) -> tuple[tuple[int, ...], ...]:
        """Every sequence of tokens that may not be completed; a token that may not be chosen is one of length 1.

        Of bad_words_ids the bare eos is dropped, as in transformers: a text must be able to end.
        """
        words = [word for word in self.bad_words_ids or () if word != (eos,)]
        words += [(token,) for token in self.suppress_tokens or ()]
        return (*words, (unk,)) if self.block_unk else tuple(words)

    @property
    def num_searches(self) -> int:
        """Independent searches of a request: several only when sequences are sampled without beams."""
        return self.num_return_sequences if self.do_sample and self.num_beams == 1 else 1

    @property
    def needs_logits(self) -> bool:
        """Whether processors change scores before the choice, so that the best of the model's own are not enough."""
        return self.do_sample or self.repetition_penalty != 1.0


MAX_BEAMS = 64


def _early_stopping(name: str, value: Any) -> bool | Literal["never"]:
    stops = values.plain(value)
    if isinstance(stops, str) and stops == "never":
        return "never"
    if isinstance(stops, bool):
        return stops
    raise UsageError(f'{name} must be True, False or "never", not {value!r}')


_OPTIONAL = ("max_new_tokens", "bad_words_ids", "suppress_tokens", "soft_max_length")
_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("num_beams", "num_return_sequences"), partial(values.integer, low=1, high=MAX_BEAMS)),
    "max_new_tokens": partial(values.integer, low=1),
    **dict.fromkeys(("min_new_tokens", "top_k", "no_repeat_ngram_size"), values.integer),
    "seed": partial(values.integer, high=2**64 - 1),
    "length_penalty": partial(values.number, low=-100.0, high=100.0),
    **dict.fromkeys(("temperature", "speech_temperature"), partial(values.number, low=1e-4, high=1e4)),
    "top_p": partial(values.number, low=1e-9, high=1.0),
    "repetition_penalty": partial(values.number, low=1e-3, high=1e3),
    **dict.fromkeys(
        "do_sample block_unk return_token_logprobs vocoder_durations speaker_per_language speech_do_sample".split(),
        values.switch,
    ),
    "early_stopping": _early_stopping,
    "bad_words_ids": partial(values.token_list, nested=True),
    "suppress_tokens": values.token_list,
    "soft_max_length": values.slope_and_offset,
}


def check_params(params: Any) -> None:
    """Raises UsageError for what is given as decoding parameters and is something else; None is no parameters."""
    if params is not None and not isinstance(params, DecodingParams):
        raise UsageError(f"params must be DecodingParams(...), for example DecodingParams(num_beams=5), not {params!r}")


@dataclass
class Request:
    """One thing to translate. Task, languages, voice and decoding options are the request's own.

    task: "asr", "s2tt", "s2st", "t2tt" or "t2st", any case.
    tgt_lang: code of the language to produce (for "asr", the language that is spoken).
    audio: path, bytes, binary file object, array or tensor [samples] or [1, samples] with `sampling_rate`, a mapping
        with the keys "array" and "sampling_rate", or "bytes", or "path", or an audio decoder of `datasets`. Channels
        are averaged, other rates are resampled to 16 kHz. The engine copies what it takes: buffers are the caller's
        again afterwards, and a file object, which is read from its start, stands where it stood.
    text, src_lang: the sentence and its language, for the two text tasks.
    speaker_id: row of the vocoder's voice table, for the two tasks that produce speech.
    params: overrides the `DecodingParams` of the call.
    segment: for long input. A clip is cut at its pauses, a text into sentences; the segments run beside one
        another, and their results are joined. True uses the defaults, "auto" leaves clips of up to 20 s whole, and a
        `Segmentation` has options. None and False leave the input whole.
    timeout: seconds from the moment the engine takes the request; one that takes longer comes back with
        `finish_reason` "cancelled" and an error.
    id: a string or an integer that comes back in the result; the position in the input if not given.

    Numbers may be NumPy's or tensors without dimensions: the fields become plain Python.

    Raises UsageError if the fields do not fit the task, or are of another type.
    """

    task: str
    tgt_lang: str
    audio: Any = field(default=None, kw_only=True)
    sampling_rate: int | None = field(default=None, kw_only=True)
    text: str | Tokens | None = field(default=None, kw_only=True)
    src_lang: str | None = field(default=None, kw_only=True)
    speaker_id: int | None = field(default=None, kw_only=True)
    params: DecodingParams | None = field(default=None, kw_only=True)
    segment: Segmentation | bool | Literal["auto"] | None = field(default=None, kw_only=True)
    timeout: float | None = field(default=None, kw_only=True)
    id: str | int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        task = self.task.lower() if isinstance(self.task, str) else self.task
        if task not in TASKS:
            raise UsageError(f"unknown task {self.task!r}: use one of {', '.join(TASKS)}")
        self.task = task
        if not isinstance(self.tgt_lang, str) or not self.tgt_lang:
            raise UsageError(f"{task} needs tgt_lang, the code of the language to produce, for example 'fra'")
        if self.audio is not None and self.text is not None:
            raise UsageError("give either audio or text, not both")
        if task in SPEECH_IN:
            self._check_speech(task)
        else:
            self._check_text(task)
        self.segment = _segmentation(self.segment)
        if self.timeout is not None:
            self.timeout = values.number("timeout", self.timeout, 0.0, 1e9)
        if self.speaker_id is not None:
            self.speaker_id = values.integer("speaker_id", self.speaker_id)
            if task not in SPEECH_OUT:
                raise UsageError(f"speaker_id chooses the voice of speech output; {task} produces text")
        if self.sampling_rate is not None:
            self.sampling_rate = values.rate(self.sampling_rate)
        if self.src_lang is not None and not isinstance(self.src_lang, str):
            raise UsageError(f"src_lang must be the code of a language, for example 'eng', not {self.src_lang!r}")
        check_params(self.params)
        if self.id is not None and not isinstance(self.id, str):
            self.id = values.integer("id, if it is not a string,", self.id, low=-(2**63), high=2**64 - 1)

    def _check_speech(self, task: str) -> None:
        if self.audio is None:
            raise UsageError(f"{task} needs audio" + (", not text" if self.text is not None else ""))

    def _check_text(self, task: str) -> None:
        if self.text is None:
            raise UsageError(f"{task} needs text" + (", not audio" if self.audio is not None else ""))
        if isinstance(self.text, Tokens):
            return
        if not isinstance(self.text, str):
            raise UsageError(f"text must be a string, not {type(self.text).__name__}")
        if not self.src_lang:
            raise UsageError(f"{task} needs src_lang, the code of the language of the text, for example 'eng'")


def _segmentation(value: Any) -> Segmentation | None:
    from seamless_engine.segmentation.options import Segmentation

    if value is None or value is False:
        return None
    if value is True:
        return Segmentation()
    if isinstance(value, str) and value == "auto":
        return Segmentation(above=Segmentation().limit)
    if isinstance(value, Segmentation):
        return value
    raise UsageError(f'segment must be True, False, "auto" or Segmentation(...), not {value!r}')


@dataclass
class Segment:
    """What was said in a part of a clip. start, end: of its speech, in seconds of the clip."""

    start: float
    end: float
    text: str = ""


@dataclass
class Hypothesis:
    """One answer. Fields mean what they mean in `Result`, which repeats those of the best one."""

    text: str
    tokens: list[int]
    score: float
    finish_reason: FinishReason
    token_logprobs: list[float] | None = None
    units: np.ndarray | None = None
    audio: np.ndarray | None = None


@dataclass
class Result:
    """What became of one request.

    id: the request's own, or its position in the input.
    task, tgt_lang: as the request named them, in their usual spelling.
    text: the answer in writing, for speech tasks too.
    tokens: generated ids after the two prompt ids, eos included when the hypothesis ended with one.
    score: `sum(log p) / length ** length_penalty` of the hypothesis.
    token_logprobs: log-probability of each token, if asked for.
    units: ids 0 to 9,999 of the vocoder's units, before its durations; None for text tasks.
    audio: float32 [samples] at `sampling_rate` (16,000), both None for text tasks.
    audio_seconds: length of the clip that was given, None for text.
    segments: of a clip with `Request.segment`, in order. The other fields tell of all segments together: texts, tokens,
        units and audio are joined, and `score` is the mean over the tokens.
    finish_reason: "eos", "length" (the limit was reached, of one segment at least), "no_speech" (there is none in the
        clip), "error" or "cancelled".
    n_best: `num_return_sequences` hypotheses: the best of the beams, best first, or the samples in their order. The
        first one is the result's own.
    error: what went wrong, as an exception that can be raised; None if nothing did. `str(error)` is the message, its
        class tells the kind. A plain SeamlessError is a fault of the engine.
    warnings: what the caller should know of an answer that was given all the same.
    timings: seconds by stage: queued, encode, decode, synthesize, total. Requests share passes, so these seconds
        overlap.
    """

    id: str | int
    task: str
    tgt_lang: str
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    score: float = float("nan")
    token_logprobs: list[float] | None = None
    units: np.ndarray | None = None
    audio: np.ndarray | None = None
    sampling_rate: int | None = None
    audio_seconds: float | None = None
    segments: list[Segment] = field(default_factory=list)
    finish_reason: FinishReason = "eos"
    n_best: list[Hypothesis] = field(default_factory=list)
    error: SeamlessError | None = None
    warnings: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The result as plain values that are valid JSON: arrays as lists, `error` as its type and message, None for
        NaN and infinity. `audio` is left out, of the hypotheses too."""
        return {entry.name: _plain(getattr(self, entry.name)) for entry in fields(self) if entry.name != "audio"}


def _plain(value: Any) -> Any:
    if isinstance(value, SeamlessError):
        return {"type": type(value).__name__, "message": str(value)}
    if isinstance(value, Hypothesis | Segment):
        return {entry.name: _plain(getattr(value, entry.name)) for entry in fields(value) if entry.name != "audio"}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if hasattr(value, "tolist"):
        return value.tolist()
    return None if isinstance(value, float) and not math.isfinite(value) else value
