"""The demo checkpoint on the device: the same answers by graphs and alone, and those of the CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.device.answers import Answers, load, require_equal, store
from benchmarks.device.parts import ROOT, Context
from seamless_engine import DecodingParams, Engine, EngineConfig, Request

CHECKPOINT = ROOT / "demo" / "checkpoint"
OPTIONS = EngineConfig(max_num_seqs=64, max_audio_seconds=60.0)
_CLIPS = {"1-eng": "fra", "4-fra": "eng", "10-spa": "deu"}  # and the language to translate to
_TEXT = "nine thousand and ninety-two"
_BEAMS = (1, 5)


def answer(context: Context, dtype: str, on_cpu: bool = False) -> str:
    """The answers of all kernels launched by the host, for the other parts."""
    engine = _engine(context, dtype, on_cpu, cuda_graphs=False)
    found = [_answers(engine.generate(_requests(context, beams))) for beams in _BEAMS]
    store(context, "cpu" if on_cpu else dtype, [one for answers in found for one in answers])
    return " | ".join(one["text"] for one in found[0][:3])


def by_graphs(context: Context, dtype: str) -> str:
    """The first answers are by the host as far as graphs are not captured at start, the second by graphs."""
    engine = _engine(context, dtype)
    for _ in range(2):
        found = [one for beams in _BEAMS for one in _answers(engine.generate(_requests(context, beams)))]
        require_equal(found, load(context, dtype))
    runner = engine.core.runner
    passes = [graphs.num_graphs for graphs in runner.pass_graphs]
    steps = getattr(runner.step, "num_graphs", 0)
    context.save(memory=engine.memory(), graphs={"steps": steps, "passes": passes})
    assert context.device == "cpu" or (steps and all(passes)), f"not captured: steps {steps}, passes {passes}"
    return f"equal; graphs of steps {steps}, of passes {passes}"


def alone(context: Context, dtype: str) -> str:
    """Each request in a call of its own."""
    engine = _engine(context, dtype)
    found = [engine.generate(request) for beams in _BEAMS for request in _requests(context, beams)]
    require_equal(_answers(found), load(context, dtype))
    return f"{len(found)} requests equal"


def _engine(context: Context, dtype: str, on_cpu: bool = False, cuda_graphs: bool = True) -> Engine:
    options = replace(OPTIONS, cuda_graphs=cuda_graphs)
    device = "cpu" if on_cpu else context.device
    return Engine.from_pretrained(CHECKPOINT, device=device, dtype=dtype, options=options)


def _requests(context: Context, beams: int) -> list[Request]:
    params = DecodingParams(num_beams=beams)
    clips = dict(list(_CLIPS.items())[: 1 if context.quick else None])
    requests = [
        Request(task, language, audio=str(ROOT / "demo" / "audio" / f"{clip}.wav"), params=params)
        for clip, language in clips.items()
        for task in ("s2tt", "s2st")
    ]
    return [*requests, *(Request(task, "fra", text=_TEXT, src_lang="eng", params=params) for task in ("t2tt", "t2st"))]


def _answers(results: list[Any]) -> Answers:
    """What has to be equal. Raises the error of a request that failed."""
    for result in results:
        if result.error is not None:
            raise result.error
    return [
        {
            "text": result.text,
            "tokens": result.tokens,
            "score": result.score,
            "units": None if result.units is None else result.units.tolist(),
            "audio": np.zeros(0, dtype=np.float32) if result.audio is None else result.audio,
        }
        for result in results
    ]
