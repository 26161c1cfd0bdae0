"""The whole engine: equal to the reference at batch size 1, and to itself in any batch, order and pool."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from seamless_engine import DecodingParams, Engine, EngineConfig, Request, Result
from support.audio import clip_of_samples
from support.oracle import Oracle, load
from tolerance import MARGIN, SCORE_ATOL, assert_waveform_close

Checkpoint = Callable[[int], Path]

TEXTS = (
    "Good morning! How are you today?",
    "Il y a 3 chats, 12 chiens et 478 oiseaux dans le jardin ; personne n'a compté les poissons.",
    "The train to the city leaves at 9:45.",
    "Guten Morgen!",
    "a",
    "¿Dónde está la llave? Nobody knows - not even she.",
)
# Samples for L mod 8 from 0 to 7 with an even and an odd number of feature frames.
CLIPS = tuple(400 + 160 * (2 * (16 + i) - 1 + odd) for i in range(8) for odd in (0, 1)) + (560, 720, 33_000)


def random_request(rng: random.Random, languages: list[str]) -> Request:
    task = rng.choice(["asr", "s2tt", "s2st", "t2tt", "t2st"])
    params = DecodingParams(
        num_beams=rng.choice([1, 2, 3, 4, 5]),
        max_new_tokens=rng.choice([3, 8, 20]),
        length_penalty=rng.choice([0.0, 0.6, 1.0, 2.0]),
        early_stopping=rng.choice([False, True, "never"]),
    )
    target = rng.choice(languages)
    voice = rng.randrange(2) if task in ("s2st", "t2st") else None
    if task in ("asr", "s2tt", "s2st"):
        audio = clip_of_samples(rng.randrange(1000), rng.choice(CLIPS))
        return Request(task, target, audio=audio, sampling_rate=16_000, speaker_id=voice, params=params)
    return Request(
        task, target, text=rng.choice(TEXTS), src_lang=rng.choice(languages), speaker_id=voice, params=params
    )


def same(a: Result, b: Result) -> bool:
    """Equal to the last bit, waveform and score included."""
    arrays = [(a.units, b.units), (a.audio, b.audio)]
    return (
        (a.tokens, a.text, a.score, a.finish_reason, a.error) == (b.tokens, b.text, b.score, b.finish_reason, b.error)
        and all((x is None and y is None) or np.array_equal(x, y) for x, y in arrays)  # type: ignore[arg-type]
    )  # fmt: skip


def compare(result: Result, request: Request, oracle: Oracle) -> str:
    """Asserts equality with the reference. Returns what was compared: "close" where its own margin is too small."""
    params = request.params or DecodingParams()
    reference = oracle.text(request, params)
    if result.tokens != reference.tokens:
        assert reference.margin < MARGIN, (result.tokens, reference.tokens, reference.margin)
        return "close"
    if reference.score is not None:
        assert result.score == pytest.approx(reference.score, abs=SCORE_ATOL)
    if request.task not in ("s2st", "t2st"):
        return "text"
    speech = oracle.speech(request, params)
    assert result.units is not None and result.audio is not None
    units = [u if u == 1 else 1 if u == 2 else u - 4 for u in speech.units]
    if result.units.tolist() != units:
        assert speech.unit_margin < MARGIN
        return "close"
    if len(result.audio) != len(speech.waveform):
        assert speech.duration_margin < MARGIN
        return "close"
    assert_waveform_close(torch.from_numpy(result.audio), torch.from_numpy(speech.waveform))
    return "speech"


@pytest.mark.parametrize("seed", range(4))
def test_every_task_equals_the_reference_at_batch_size_one(checkpoint: Checkpoint, seed: int) -> None:
    folder = checkpoint(seed)
    rng = random.Random(seed)
    engine = Engine.from_pretrained(folder, device="cpu")
    spoken = engine.languages("s2st")
    requests = [random_request(rng, spoken) for _ in range(12)]
    outcomes = [
        compare(result, request, load(folder))
        for result, request in zip(engine.generate(requests), requests, strict=True)
    ]
    assert outcomes.count("close") <= 1
    assert outcomes.count("speech") >= 2


@pytest.mark.parametrize("samples", CLIPS)
def test_clips_of_every_length_class_equal_the_reference(checkpoint: Checkpoint, samples: int) -> None:
    folder = checkpoint(1)
    engine = Engine.from_pretrained(folder, device="cpu", tasks=["s2tt"])
    request = Request("s2tt", "fra", audio=clip_of_samples(samples, samples), sampling_rate=16_000)
    request.params = DecodingParams(num_beams=3, max_new_tokens=12)
    assert compare(engine.generate([request])[0], request, load(folder)) in ("text", "close")


def test_results_do_not_depend_on_batch_order_or_pool(checkpoint: Checkpoint) -> None:
    folder = checkpoint(2)
    rng = random.Random(5)
    roomy = Engine.from_pretrained(folder, device="cpu")
    requests = [random_request(rng, roomy.languages("s2st")) for _ in range(24)]
    alone = [roomy.generate([request])[0] for request in requests]
    assert not any(result.error for result in alone)
    options = [
        EngineConfig(),
        EngineConfig(max_rows=7, num_slots=400, encode_frames=50, speak_tokens=10),
        EngineConfig(max_rows=40, num_slots=1200, encode_frames=10_000, speak_tokens=100_000),
    ]
    for option in options:
        engine = Engine.from_pretrained(folder, device="cpu", options=option)
        for _ in range(2):
            order = rng.sample(range(len(requests)), len(requests))
            together = engine.generate([requests[i] for i in order])
            assert all(same(alone[i], result) for i, result in zip(order, together, strict=True))
            engine._runner.blocks.check_integrity()
            assert engine._runner.blocks.free_blocks == engine._runner.blocks.num_blocks


def test_stale_memory_is_never_read(checkpoint: Checkpoint) -> None:
    engine = Engine.from_pretrained(checkpoint(3), device="cpu")
    requests = [random_request(random.Random(i), engine.languages("s2st")) for i in range(6)]
    before = engine.generate(requests)
    engine._runner.pool.k.fill_(torch.nan)
    engine._runner.pool.v.fill_(torch.nan)
    engine._runner.buffers.state_pool.fill_(torch.nan)
    engine._runner.buffers.slot_table.fill_(2**30)
    engine._runner.buffers.finished_table.fill_(2**30)
    assert all(same(a, b) for a, b in zip(before, engine.generate(requests), strict=True))


def test_a_bad_item_fails_alone(checkpoint: Checkpoint) -> None:
    engine = Engine.from_pretrained(checkpoint(0), device="cpu")
    good = [Request("t2tt", "fra", text=text, src_lang="eng") for text in TEXTS[:3]]
    expected = engine.generate(good)
    silent = Request("asr", "eng", audio=np.full(16_000, np.nan, np.float32), sampling_rate=16_000)
    short = Request("asr", "eng", audio=np.zeros(100, np.float32), sampling_rate=16_000)
    mixed = engine.generate(
        [silent, good[0], short, good[1], Request("t2tt", "fra", text=" ", src_lang="eng"), good[2]]
    )
    assert [bool(result.error) for result in mixed] == [True, False, True, False, True, False]
    assert all(result.finish_reason == "error" for result in mixed[::2])
    assert all(same(a, b) for a, b in zip(expected, mixed[1::2], strict=True))


def test_a_nan_in_one_request_leaves_the_others_alone(checkpoint: Checkpoint) -> None:
    engine = Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["t2tt"])
    requests = [Request("t2tt", "fra", text=text, src_lang="eng") for text in TEXTS]
    expected = engine.generate(requests)
    encode = engine._runner.decoder.store_encodings

    def poisoned(encodings: torch.Tensor, slots: torch.Tensor, pool: object) -> None:
        encodings[:2] = torch.nan  # rows of the first request
        encode(encodings, slots, pool)  # type: ignore[arg-type]

    engine._runner.decoder.store_encodings = poisoned  # type: ignore[method-assign]
    results = engine.generate(requests)
    assert results[0].error is not None and "NaN" in results[0].error
    assert all(same(a, b) for a, b in zip(expected[1:], results[1:], strict=True))
    engine._runner.blocks.check_integrity()


def test_stream_draws_no_more_than_it_can_hold(checkpoint: Checkpoint) -> None:
    engine = Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["t2tt"], options=EngineConfig(max_rows=2))
    drawn = 0

    def endless():  # noqa: ANN202
        nonlocal drawn
        while True:
            drawn += 1
            yield Request("t2tt", "fra", text=TEXTS[drawn % 3], src_lang="eng", params=DecodingParams(max_new_tokens=3))

    results = engine.stream(endless())
    for finished in range(1, 20):
        next(results)
        assert drawn <= finished + 8
    results.close()
    engine._runner.blocks.check_integrity()
    assert engine._runner.blocks.free_rows == 2


def test_min_new_tokens_keeps_eos_away(checkpoint: Checkpoint) -> None:
    engine = Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["t2tt"])
    for beams in (1, 4):
        params = DecodingParams(num_beams=beams, min_new_tokens=9, max_new_tokens=11)
        for result in engine.generate([Request("t2tt", "fra", text=t, src_lang="eng") for t in TEXTS], params):
            assert len(result.tokens) >= 10 and 3 not in result.tokens[:9]


def test_an_immediate_end_is_an_empty_result(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["t2st"])
    logits = engine._runner.decoder.logits

    def ends(hidden: torch.Tensor) -> torch.Tensor:
        out = logits(hidden)
        out[:, 3] = 1e4
        return out

    monkeypatch.setattr(engine._runner.decoder, "logits", ends)
    result = engine.generate([Request("t2st", "fra", text="hello", src_lang="eng")])[0]
    assert (result.tokens, result.text, result.error) == ([3], "", None)
    assert result.audio is not None and len(result.audio) == 0 and result.units is not None and len(result.units) == 0
