"""The host is not in the loop: no pass and no decode step waits until the device has nothing left to do.

Without a GPU the engine runs on a pretended one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seamless_engine import DecodingParams, Engine, EngineConfig, Request
from seamless_engine.model_inputs import Features
from seamless_engine.models.vocoder import Clips, Window
from seamless_engine.search.step_batch import StepBatch
from seamless_kernels.transfer import Download, upload, upload_packed
from support.audio import clip
from support.driven import answer
from support.parity import TEXTS
from support.pretend_gpu import DEVICE, PretendGpu, install, load
from support.synchronisation import EventWaits, Stops

OPTIONS = EngineConfig(max_num_seqs=24, num_slots=2400, max_encoder_tokens=300, max_synthesis_tokens=60)


@pytest.fixture(scope="module")
def device() -> Iterator[torch.device]:
    with torch.inference_mode():
        if torch.cuda.is_available():
            yield torch.device("cuda", 0)
        else:
            with pytest.MonkeyPatch.context() as patch, PretendGpu():
                install(patch)
                yield DEVICE


@pytest.fixture(scope="module")
def engine(checkpoint: Callable[[int], Path], device: torch.device) -> Engine:
    if device == DEVICE:
        return load(checkpoint(0), OPTIONS)
    return Engine.from_pretrained(checkpoint(0), device=device, dtype="float32", options=OPTIONS)


@dataclass
class Call:
    """Of `encode`, `decode` or `synthesize` of the model runner, or of what the last one returns: "samples".

    waits: for events; each with the number of steps and vocoder passes that were launched after the event was recorded.
    ended: requests that a step has ended. searching: whether others go on. passes: of the vocoder.
    """

    name: str
    stops: list[str]
    waits: list[int]
    ended: int
    searching: bool
    passes: int


def calls_of(engine: Engine, requests: list[Request], arrivals: list[int], patch: pytest.MonkeyPatch) -> list[Call]:
    """What the runner does until the requests are answered."""
    if torch.cuda.is_available():
        answer(engine, requests, arrivals=arrivals)  # compiles kernels and captures graphs
    runner, calls, events = engine.core.runner, [], EventWaits(patch)
    assert runner.vocoder is not None
    step, passes, launched_passes = runner.step, runner.vocoder.passes, 0

    def launched_step(batch: StepBatch) -> torch.Tensor:
        events.launches += 1
        return step(batch)

    def launched(clips: Clips) -> Iterator[list[Window]]:
        nonlocal launched_passes
        for windows in passes(clips):
            events.launches, launched_passes = events.launches + 1, launched_passes + 1
            yield windows

    def watched(name: str, inside: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            stops, waited, launched = Stops(), len(events.found), launched_passes
            with stops.watched():
                result = inside(*given)
            ended = len(result) if name == "decode" else 0
            searching = any(job.searching for job in engine.core.scheduler.decoding)
            calls.append(Call(name, stops.found, events.found[waited:], ended, searching, launched_passes - launched))
            return watched("samples", result) if name == "synthesize" else result

        return call

    patch.setattr(runner, "step", launched_step)
    patch.setattr(runner.vocoder, "passes", launched)
    for name in ("encode", "decode", "synthesize"):
        patch.setattr(runner, name, watched(name, getattr(runner, name)))
    results = answer(engine, requests, arrivals=arrivals)
    assert not any(result.error for result in results)
    return calls


def text(task: str, index: int, **params: Any) -> Request:
    chosen = DecodingParams(max_new_tokens=4 + 3 * (index % 4), **params)
    return Request(task, "fra", text=TEXTS[index % len(TEXTS)], src_lang="eng", params=chosen)


def test_decode_waits_for_no_step_that_has_none_behind_it(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step reads which searches the step before it has ended, and what those found that ended before: each by one
    event, behind which a step is launched. The batch changes as requests come and leave."""
    requests = [text("t2tt", i, num_beams=1 + 2 * (i % 3)) for i in range(10)]
    steps = [c for c in calls_of(engine, requests, [i // 2 for i in range(10)], monkeypatch) if c.name == "decode"]
    assert [stop for call in steps for stop in call.stops] == []
    assert all(len(call.waits) <= 1 + bool(call.ended) and 0 not in call.waits for call in steps if call.searching)
    assert sum(call.searching and call.ended > 0 for call in steps) > 3


def test_decode_does_not_stop_for_a_request_with_other_parameters(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    params: list[dict[str, Any]] = [
        {"do_sample": True, "num_return_sequences": 3, "top_k": 5, "top_p": 0.9, "seed": 3},
        {"num_beams": 3, "no_repeat_ngram_size": 2, "min_new_tokens": 3},
        {"num_beams": 2, "bad_words_ids": ((5, 6), (9,)), "repetition_penalty": 1.2},
        {"num_beams": 4, "num_return_sequences": 4, "return_token_logprobs": True},
    ]
    requests = [text("t2tt", i, **chosen) for i, chosen in enumerate(params)]
    calls = calls_of(engine, requests, [0, 0, 2, 2], monkeypatch)
    assert [stop for call in calls for stop in call.stops] == []
    assert not any(0 in call.waits for call in calls if call.searching)


def test_encode_waits_for_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = torch.randn(40, 160, generator=torch.Generator().manual_seed(0))
    params = DecodingParams(max_new_tokens=3)
    requests = [
        *(Request("asr", "fra", audio=clip(i, 0.4 + i), sampling_rate=16_000, params=params) for i in range(3)),
        *(Request("asr", "fra", audio=Features(frames[:count], count - 1), params=params) for count in (40, 23)),
        *(text("t2tt", i) for i in range(3)),
    ]
    passes = [c for c in calls_of(engine, requests, [0, 0, 2, 2, 0, 0, 1, 2], monkeypatch) if c.name == "encode"]
    assert len(passes) == 3
    assert [stop for call in passes for stop in call.stops] == [wait for call in passes for wait in call.waits] == []


def test_synthesize_waits_for_two_numbers_and_the_samples(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the numbers of units and of frames; for the units, which come with the latter; and for the samples
    of each pass of the vocoder when more is launched: the next one, or a decode step while other requests go on."""
    assert engine.core.runner.vocoder is not None
    monkeypatch.setattr(engine.core.runner.vocoder, "window", 60)
    monkeypatch.setattr(engine.core.runner.vocoder, "pass_frames", 100)
    limits = dataclasses.replace(engine.core.scheduler.limits, max_synthesis_tokens=1)
    monkeypatch.setattr(engine.core.scheduler, "limits", limits)
    calls = calls_of(engine, [text("t2st", i) for i in range(4)], [0] * 4, monkeypatch)
    passes = [call for call in calls if call.name == "synthesize"]
    samples = [call for call in calls if call.name == "samples"]
    assert [stop for call in passes + samples for stop in call.stops] == []
    assert all(call.waits == [0, 0, 0, *[1] * (call.passes - 1)] for call in passes)
    assert max(call.passes for call in passes) > 1 and len(samples) == len(passes) > 1
    assert all(len(call.waits) == 1 and call.waits != [0] for call in samples[:-1]) and samples[-1].waits == [0]


PLANTED: dict[str, Callable[[torch.Tensor], Any]] = {
    "item": lambda x: x[0].item(),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "bool": lambda x: bool((x > 0).any()),
    "index of a number": lambda x: x[x[0]],
    "slice to a number": lambda x: x[: x[0]],
    "index of a list": lambda x: x[[0, 1]],
    "index of the host": lambda x: x[torch.tensor([0, 1])],
    "mask": lambda x: x[x > 0],
    "mask that is written": lambda x: x.clone().__setitem__(x > 0, x[1:2]),
    "nonzero": lambda x: x.nonzero(),
    "repeat_interleave": lambda x: x.repeat_interleave(x),
    "tensor": lambda x: torch.tensor([1, 2], device=x.device),
    "pageable": lambda x: torch.tensor([1, 2]).to(x.device, non_blocking=True),
    "pageable copy": lambda x: x.clone().copy_(torch.tensor([1, 2, 3]), non_blocking=True),
    "pinned copy that waits": lambda x: torch.tensor([1, 2, 3]).pin_memory().to(x.device),
}


@pytest.mark.parametrize("name", PLANTED)
def test_stops_finds_what_makes_the_host_wait(device: torch.device, name: str) -> None:
    (x,) = upload(device, np.array([1, 2, 0]))
    stops = Stops()
    with stops.watched():
        PLANTED[name](x)
    assert stops.found


def test_stops_finds_a_synchronising_call_in_a_step(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    step = engine.core.runner.step

    def stopping(batch: StepBatch) -> torch.Tensor:
        status = step(batch)
        if int(status[0]) >= 0:
            return status
        raise AssertionError

    monkeypatch.setattr(engine.core.runner, "step", stopping)
    calls = calls_of(engine, [text("t2tt", 0)], [0], monkeypatch)
    assert all(call.stops for call in calls if call.name == "decode" and call.searching)


def test_upload_and_download_do_not_stop_and_keep_every_value(device: torch.device) -> None:
    numbers = np.random.default_rng(0).integers(0, 2, size=(5, 7))
    arrays = [
        numbers[:rows, first:].astype(dtype)
        for dtype in (np.int64, np.int32, np.float32, np.float64, np.bool_, np.uint8)
        for rows, first in ((5, 0), (3, 5), (0, 2))
    ]
    arrays += [numbers[:, 1:3], numbers[0]]
    parts = [torch.full((count, 2), float(count)) for count in (3, 0, 5)]
    stops = Stops()
    with stops.watched():
        uploaded = [*upload(device, *arrays), upload_packed(device, parts)]
        found = [Download(tensor).wait() for tensor in uploaded]
    assert stops.found == []
    for array, expected in zip(found, [*arrays, torch.cat(parts).numpy()], strict=True):
        assert array.dtype == expected.dtype and np.array_equal(array, expected)
