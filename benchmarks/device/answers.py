"""Answers that parts leave to each other, and how they are compared. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.device.parts import Context

Answers = list[dict[str, Any]]  # text, tokens, score, units and audio of each request


def against_cpu(context: Context, dtype: str) -> str:
    """In float32 every text is equal. In a narrower dtype most are."""
    ours, cpu = load(context, dtype), load(context, "cpu")
    count = len(cpu)
    texts = sum(one["tokens"] == other["tokens"] for one, other in zip(ours, cpu, strict=True))
    pairs = [(one, other) for one, other in zip(ours, cpu, strict=True) if other["units"] is not None]
    equal = [pair for pair in pairs if pair[0]["units"] == pair[1]["units"]]
    audio = [(one["audio"], other["audio"]) for one, other in equal]
    apart = max((float(np.abs(a - b).max()) for a, b in audio if len(a) == len(b) > 0), default=0.0)
    said = f"texts {texts} of {count}, units {len(equal)} of {len(pairs)}, their waveforms {apart:.1e} apart"
    context.save(texts=texts, units=len(equal), of=count, waveform=apart)
    assert texts == count if dtype == "float32" else texts > count // 2, said
    return said


def require_equal(found: Answers, expected: Answers) -> None:
    wrong = [
        f"answer {i}, {name}"
        for i, (one, other) in enumerate(zip(found, expected, strict=True))
        for name in one
        if not np.array_equal(one[name], other[name])
    ]
    assert not wrong, f"differ from those launched by the host in one batch: {', '.join(wrong)}"


def store(context: Context, name: str, answers: Answers) -> None:
    audio = {str(i): one.pop("audio") for i, one in enumerate(answers)}
    np.savez(Path(context.scratch, f"{name}.npz"), answers=json.dumps(answers), **audio)


def load(context: Context, name: str) -> Answers:
    with np.load(Path(context.scratch, f"{name}.npz")) as stored:
        return [one | {"audio": stored[str(i)]} for i, one in enumerate(json.loads(str(stored["answers"])))]
