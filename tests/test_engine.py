"""The whole engine: equal to the reference at batch size 1, and to itself in any batch, order and pool."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seamless_engine import AsyncEngine, DecodingParams, Engine, EngineConfig, Request, Result, UsageError
from seamless_engine.models.text_decoder import NextTokens
from support.audio import clip_of_samples
from support.oracle import load
from support.parity import CLIPS, TEXTS, agreement, random_request, same

Checkpoint = Callable[[int], Path]


@pytest.mark.parametrize("seed", range(4))
def test_generate_equals_transformers_at_batch_size_one_for_every_task(checkpoint: Checkpoint, seed: int) -> None:
    folder = checkpoint(seed)
    rng = random.Random(seed)
    engine = Engine.from_pretrained(folder, device="cpu")
    spoken = engine.languages("s2st")
    requests = [random_request(rng, spoken) for _ in range(12)]
    found = [
        agreement(r, request, load(folder)) for r, request in zip(engine.generate(requests), requests, strict=True)
    ]
    assert all(one.holds for one in found), found
    assert sum(one.excused for one in found) <= 1
    assert sum(one.waveform is not None for one in found) >= 2


@pytest.mark.parametrize("samples", CLIPS)
def test_generate_equals_transformers_for_clips_of_every_length_class(checkpoint: Checkpoint, samples: int) -> None:
    folder = checkpoint(1)
    engine = Engine.from_pretrained(folder, device="cpu", tasks=["s2tt"])
    request = Request("s2tt", "fra", audio=clip_of_samples(samples, samples), sampling_rate=16_000)
    request.params = DecodingParams(num_beams=3, max_new_tokens=12)
    assert agreement(engine.generate([request])[0], request, load(folder)).holds


def test_generate_is_batch_invariant_in_any_order_and_pool(checkpoint: Checkpoint) -> None:
    folder = checkpoint(2)
    rng = random.Random(5)
    roomy = Engine.from_pretrained(folder, device="cpu")
    requests = [random_request(rng, roomy.languages("s2st")) for _ in range(24)]
    alone = [roomy.generate([request])[0] for request in requests]
    assert not any(result.error for result in alone)
    options = [
        EngineConfig(),
        EngineConfig(max_num_seqs=7, num_slots=400, max_encoder_tokens=50, max_synthesis_tokens=10),
        EngineConfig(max_num_seqs=40, num_slots=1200, max_encoder_tokens=10_000, max_synthesis_tokens=100_000),
    ]
    for option in options:
        engine = Engine.from_pretrained(folder, device="cpu", options=option)
        for _ in range(2):
            order = rng.sample(range(len(requests)), len(requests))
            together = engine.generate([requests[i] for i in order])
            assert all(same(alone[i], result) for i, result in zip(order, together, strict=True))
            engine.core.runner.blocks.check_integrity()
            assert engine.core.runner.blocks.free_blocks == engine.core.runner.blocks.num_blocks


def test_generate_never_reads_stale_memory(checkpoint: Checkpoint) -> None:
    engine = Engine.from_pretrained(checkpoint(3), device="cpu")
    requests = [random_request(random.Random(i), engine.languages("s2st")) for i in range(6)]
    before = engine.generate(requests)
    engine.core.runner.pool.k.fill_(torch.nan)
    engine.core.runner.pool.v.fill_(torch.nan)
    engine.core.runner.state.state_pool.fill_(torch.nan)
    engine.core.runner.state.slot_table.fill_(2**30)
    engine.core.runner.state.finished_table.fill_(2**30)
    assert all(same(a, b) for a, b in zip(before, engine.generate(requests), strict=True))


def test_generate_isolates_a_failing_request(checkpoint: Checkpoint) -> None:
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


def test_generate_isolates_a_request_with_nan(checkpoint: Checkpoint) -> None:
    engine = Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["t2tt"])
    requests = [Request("t2tt", "fra", text=text, src_lang="eng") for text in TEXTS]
    expected = engine.generate(requests)
    encode = engine.core.runner.decoder.store_encoder_states

    def poisoned(encoder_states: torch.Tensor, slots: torch.Tensor, pool: object) -> None:
        encoder_states[:2] = torch.nan  # rows of the first request
        encode(encoder_states, slots, pool)  # type: ignore[arg-type]

    engine.core.runner.decoder.store_encoder_states = poisoned  # type: ignore[method-assign]
    results = engine.generate(requests)
    assert "NaN" in str(results[0].error)
    assert all(same(a, b) for a, b in zip(expected[1:], results[1:], strict=True))
    engine.core.runner.blocks.check_integrity()


def test_stream_pulls_no_more_than_it_can_hold(checkpoint: Checkpoint) -> None:
    engine = Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["t2tt"], options=EngineConfig(max_num_seqs=2))
    drawn = 0

    def endless() -> Iterator[Request]:
        nonlocal drawn
        while True:
            drawn += 1
            yield Request("t2tt", "fra", text=TEXTS[drawn % 3], src_lang="eng", params=DecodingParams(max_new_tokens=3))

    results = engine.stream(endless())
    for finished in range(1, 20):
        next(results)
        assert drawn <= finished + 8
    results.close()
    engine.core.runner.blocks.check_integrity()
    assert engine.core.runner.blocks.free_seqs == 2


def test_stream_pulls_few_requests_before_its_first_result_then_all(checkpoint: Checkpoint) -> None:
    engine = Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["t2tt"])
    requests = [Request("t2tt", "fra", text=text, src_lang="eng") for text in TEXTS * 30]
    drawn: list[Request] = []
    results = engine.stream(drawn.append(request) or request for request in requests)
    found = [next(results)]
    assert len(drawn) == 8
    ahead = []
    for result in results:
        ahead.append(len(drawn) - len(found))
        found.append(result)
    assert max(ahead) > 100  # the rest comes at once
    expected = engine.generate(requests)
    assert all(same(expected[int(result.id)], result) for result in found) and len(found) == len(requests)


def test_streams_of_one_engine_share_its_beams(checkpoint: Checkpoint) -> None:
    options = EngineConfig(max_num_seqs=2)
    engine = Engine.from_pretrained(checkpoint(1), device="cpu", tasks=["t2tt"], options=options)
    requests = [Request("t2tt", "fra", text=text, src_lang="eng") for text in TEXTS]
    expected = engine.generate(requests)
    first, second = engine.stream(requests), engine.stream(requests)
    found = [next(first)]  # the other row is held by its next request
    results = {result.id: result for result in second}
    assert all(same(results[i], expected[i]) for i in range(len(requests)))
    wide = Request("t2tt", "fra", text=TEXTS[0], src_lang="eng", params=DecodingParams(num_beams=2))
    assert engine.generate([wide])[0].error is None  # it waits for both rows
    assert sorted(result.id for result in [*found, *first]) == list(range(len(requests)))


def test_min_new_tokens_delays_eos(checkpoint: Checkpoint) -> None:
    engine = Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["t2tt"])
    for beams in (1, 4):
        params = DecodingParams(num_beams=beams, min_new_tokens=9, max_new_tokens=11)
        for result in engine.generate([Request("t2tt", "fra", text=t, src_lang="eng") for t in TEXTS], params):
            assert len(result.tokens) >= 10 and 3 not in result.tokens[:9]


def test_generate_gives_an_empty_result_for_an_immediate_eos(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["t2st"])
    next_tokens = engine.core.runner.decoder.next_tokens

    def ends(hidden: torch.Tensor) -> NextTokens:
        expected = next_tokens(hidden)
        expected.logits[:, 3] = 1e4
        return expected

    monkeypatch.setattr(engine.core.runner.decoder, "next_tokens", ends)
    result = engine.generate([Request("t2st", "fra", text="hello", src_lang="eng")])[0]
    assert (result.tokens, result.text, result.error) == ([3], "", None)
    assert result.audio is not None and len(result.audio) == 0 and result.units is not None and len(result.units) == 0


def test_generate_answers_one_request_as_it_answers_a_list_of_one(checkpoint: Checkpoint) -> None:
    engine = Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["t2tt"])
    request = Request("t2tt", "fra", text=TEXTS[0], src_lang="eng")
    [expected] = engine.generate([request])
    assert same(engine.generate(request), expected)

    async def shared() -> Result:
        async with AsyncEngine(engine) as many:
            return await many.generate(request)

    assert same(asyncio.run(shared()), expected)
    with pytest.raises(UsageError, match="xxx"):
        engine.generate(Request("t2tt", "xxx", text=TEXTS[0], src_lang="eng"))


def test_transcribe_translate_and_synthesize_answer_as_generate_does(checkpoint: Checkpoint) -> None:
    engine = Engine.from_pretrained(checkpoint(0), device="cpu")
    params = DecodingParams(num_beams=2, max_new_tokens=5)
    heard: dict[str, Any] = {"audio": clip_of_samples(1, 9_000), "sampling_rate": 16_000}
    written: dict[str, Any] = {"text": TEXTS[1], "src_lang": "eng"}
    answers = {
        "asr": engine.transcribe(heard["audio"], "eng", params, sampling_rate=16_000),
        "s2tt": engine.translate(tgt_lang="eng", params=params, **heard),
        "t2tt": engine.translate(tgt_lang="eng", params=params, **written),
        "s2st": engine.synthesize(tgt_lang="eng", params=params, **heard),
        "t2st": engine.synthesize(tgt_lang="eng", params=params, speaker_id=1, **written),
    }
    for task, found in answers.items():
        fields = written if task.startswith("t") else heard
        speaker: dict[str, Any] = {"speaker_id": 1} if task == "t2st" else {}
        expected = engine.generate(Request(task, "eng", **fields, **speaker), params)
        assert found.task == task and found.error is None and same(found, expected)
    with pytest.raises(UsageError, match="give either audio or text"):
        engine.translate(tgt_lang="eng", **heard, **written)
    with pytest.raises(UsageError, match="needs text"):
        engine.translate(tgt_lang="eng")


def test_to_json_gives_plain_values_of_answers_and_failures(checkpoint: Checkpoint) -> None:
    engine = Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["t2st"])
    params = DecodingParams(num_beams=2, num_return_sequences=2, max_new_tokens=5, return_token_logprobs=True)
    answered, failed = engine.generate(
        [Request("t2st", "fra", text=text, src_lang="eng", id=text) for text in ("hello", " ")], params
    )
    values = json.loads(json.dumps(answered.to_json(), allow_nan=False))
    assert (values["id"], values["text"], values["error"]) == ("hello", answered.text, None)
    assert values["units"] == list(answered.units if answered.units is not None else []) and "audio" not in values
    assert [one["tokens"] for one in values["n_best"]] == [one.tokens for one in answered.n_best]
    values = json.loads(json.dumps(failed.to_json(), allow_nan=False))
    assert values["error"] == {"type": "InputError", "message": str(failed.error)} and values["score"] is None
