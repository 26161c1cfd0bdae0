"""One result of a request that was cut into segments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from seamless_engine.job import Job
from seamless_engine.request import Hypothesis, Result
from seamless_engine.segmentation.plausibility import transcript_warnings

_PASSES = ("encode", "synthesize")
_NO_SPACES = frozenset({"cmn", "cmn_Hant", "yue", "jpn", "tha", "lao", "khm", "mya"})  # written without, between words


def join(result: Result, jobs: Sequence[Job], sampling_rate: int) -> Result:
    """Fill `result`, the draft of a request, with the finished results of its segments.

    jobs: in order; each holds its own result, its segment and what separates it from the next in a text.
    sampling_rate: of speech output.
    """
    parts = [job.result for job in jobs]
    for job in jobs:
        warnings = job.result.warnings
        if job.segment is not None:
            job.segment.text = job.result.text
            result.segments.append(job.segment)
            warnings = warnings + transcript_warnings(job.result.text, job.segment.end - job.segment.start)
        result.warnings += [f"{_place(job)}{warning}" for warning in warnings]
    result.text = _joined(((part.text, job.separator) for part, job in zip(parts, jobs, strict=True)), result.tgt_lang)
    result.tokens = [token for part in parts for token in part.tokens]
    weights = [len(part.tokens) for part in parts]
    if any(weights):
        result.score = sum(part.score * weight for part, weight in zip(parts, weights, strict=True)) / sum(weights)
    if parts and all(part.token_logprobs is not None for part in parts):
        result.token_logprobs = [value for part in parts for value in part.token_logprobs or ()]
    result.finish_reason = "no_speech" if not parts else "eos"
    if any(part.finish_reason == "length" for part in parts):
        result.finish_reason = "length"
    if any(part.audio is not None for part in parts):
        result.units = np.concatenate([part.units for part in parts if part.units is not None])
        result.audio = np.concatenate([part.audio for part in parts if part.audio is not None])
        result.sampling_rate = sampling_rate
    result.timings |= _timings(parts)
    result.n_best = [
        Hypothesis(
            result.text,
            result.tokens,
            result.score,
            result.finish_reason,
            result.token_logprobs,
            result.units,
            result.audio,
        )
    ]
    return result


def _timings(parts: Sequence[Result]) -> dict[str, float]:
    """Seconds by stage. Segments of one pass have one and the same time for it, which counts once."""
    if not parts:
        return {}
    times = {stage: [part.timings.get(stage, 0.0) for part in parts] for stage in ("queued", "decode")}
    passes = {stage: {part.timings[stage] for part in parts if stage in part.timings} for stage in _PASSES}
    return {stage: max(all_of) for stage, all_of in times.items()} | {
        stage: sum(each) for stage, each in passes.items() if each
    }


def _place(job: Job) -> str:
    return "" if job.segment is None else f"{job.segment.start:.1f} to {job.segment.end:.1f} s: "


def _joined(parts: Iterable[tuple[str, str]], language: str) -> str:
    """The texts with their separators. Between two texts of a language without spaces, a space becomes nothing."""
    joined = ""
    for text, separator in parts:
        if separator.isspace() and "\n" not in separator and language in _NO_SPACES:
            separator = ""
        joined += text + separator if text else ""
    return joined.strip()
