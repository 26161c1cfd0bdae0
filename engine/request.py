"""The nouns that every part of the engine shares: what is asked, how to decode it, what comes back."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from seamless_engine.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

Task = Literal["asr", "s2tt", "s2st", "t2tt", "t2st"]
TASKS: tuple[Task, ...] = get_args(Task)
SPEECH_IN: frozenset[Task] = frozenset({"asr", "s2tt", "s2st"})
SPEECH_OUT: frozenset[Task] = frozenset({"s2st", "t2st"})

FinishReason = Literal["eos", "length", "error", "cancelled"]
AudioLike = "str | os.PathLike[str] | bytes | IO[bytes] | np.ndarray | torch.Tensor | Mapping[str, Any]"


class Stage(enum.Enum):
    """Where a request is on its way through the engine."""

    WAITING = enum.auto()
    DECODING = enum.auto()
    SPEAKING = enum.auto()
    FINISHED = enum.auto()


@dataclass(frozen=True)
class DecodingParams:
    """How to choose the text. Names and defaults are transformers' (greedy; the checkpoint's `max_new_tokens`).

    num_beams: hypotheses kept at each step; 1 is greedy.
    max_new_tokens: limit on generated tokens, eos included; None takes the checkpoint's (256 for v2-large).
    min_new_tokens: eos may not be chosen before this many tokens were generated.
    length_penalty: a finished hypothesis scores `sum(log p) / length ** length_penalty`.
    early_stopping: True stops at `num_beams` finished hypotheses; False when the best running one cannot win at
        its present length; "never" when it cannot win at any length.

    Raises UsageError for a value out of range.
    """

    num_beams: int = 1
    max_new_tokens: int | None = None
    min_new_tokens: int = 0
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False

    def __post_init__(self) -> None:
        _check_int("num_beams", self.num_beams, low=1, high=MAX_BEAMS)
        if self.max_new_tokens is not None:
            _check_int("max_new_tokens", self.max_new_tokens, low=1)
        _check_int("min_new_tokens", self.min_new_tokens, low=0)
        if isinstance(self.length_penalty, bool) or not isinstance(self.length_penalty, int | float):
            raise UsageError(f"length_penalty must be a number, not {self.length_penalty!r}")
        if not -100.0 < self.length_penalty < 100.0:
            raise UsageError(f"length_penalty must be finite and within ±100, not {self.length_penalty!r}")
        if self.early_stopping not in (True, False, "never"):
            raise UsageError(f'early_stopping must be True, False or "never", not {self.early_stopping!r}')


MAX_BEAMS = 64


def _check_int(name: str, value: object, low: int, high: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"{name} must be an integer, not {value!r}")
    if value < low or (high is not None and value > high):
        limit = f"at least {low}" if high is None else f"between {low} and {high}"
        raise UsageError(f"{name} must be {limit}, not {value}")


@dataclass
class Request:
    """One thing to translate. Task, languages, voice and decoding options are the request's own.

    task: "asr", "s2tt", "s2st", "t2tt" or "t2st", any case.
    tgt_lang: code of the language to produce (for "asr", the language that is spoken).
    audio: path, bytes, binary file object, 1-D float array or tensor with `sampling_rate`, or a mapping with the keys
        "array" and "sampling_rate". Channels are averaged, other rates are resampled to 16 kHz.
    text, src_lang: the sentence and its language, for the two text tasks.
    speaker_id: row of the vocoder's voice table, for the two tasks that produce speech.
    params: overrides the `DecodingParams` of the call.
    id: comes back in the result; the position in the input if not given.

    Raises UsageError if the fields do not fit the task.
    """

    task: str
    tgt_lang: str
    audio: Any = field(default=None, kw_only=True)
    sampling_rate: int | None = field(default=None, kw_only=True)
    text: str | None = field(default=None, kw_only=True)
    src_lang: str | None = field(default=None, kw_only=True)
    speaker_id: int | None = field(default=None, kw_only=True)
    params: DecodingParams | None = field(default=None, kw_only=True)
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
        if self.speaker_id is not None:
            _check_int("speaker_id", self.speaker_id, low=0)
            if task not in SPEECH_OUT:
                raise UsageError(f"speaker_id chooses the voice of speech output; {task} produces text")

    def _check_speech(self, task: str) -> None:
        if self.audio is None:
            raise UsageError(f"{task} needs audio" + (", not text" if self.text is not None else ""))
        if self.sampling_rate is not None:
            _check_int("sampling_rate", self.sampling_rate, low=1)

    def _check_text(self, task: str) -> None:
        if self.text is None:
            raise UsageError(f"{task} needs text" + (", not audio" if self.audio is not None else ""))
        if not isinstance(self.text, str):
            raise UsageError(f"text must be a string, not {type(self.text).__name__}")
        if not isinstance(self.src_lang, str) or not self.src_lang:
            raise UsageError(f"{task} needs src_lang, the code of the language of the text, for example 'eng'")


@dataclass
class Result:
    """What became of one request.

    tokens: generated ids after the two prompt ids, eos included when the hypothesis ended with one.
    score: `sum(log p) / length ** length_penalty` of the hypothesis.
    units: ids 0 to 9,999 of the vocoder's units, before its durations; None for text tasks.
    audio: float32 [samples] at `sampling_rate`, None for text tasks.
    finish_reason: "eos", "length" (the limit was reached), "error" or "cancelled".
    timings: seconds by stage: queued, encode, decode, speak, total. Requests share passes, so results overlap in time.
    """

    id: str | int
    task: str
    tgt_lang: str
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    score: float = float("nan")
    units: np.ndarray | None = None
    audio: np.ndarray | None = None
    sampling_rate: int | None = None
    finish_reason: FinishReason = "eos"
    error: str | None = None
    warnings: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
