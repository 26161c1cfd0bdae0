"""The synthesis pass: its results are batch-invariant, and it seldom waits for the device."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seamless_engine import DecodingParams, Engine, EngineConfig, Request, Result, synthesizer
from seamless_engine.config import ModelConfig
from seamless_engine.inputs.characters import CharacterTable
from support.models import parts
from support.on_cpu import bounds, normal
from support.oracle import load
from support.parity import TEXTS, agreement, same
from tolerance import MARGIN

Checkpoint = Callable[[int], Path]


def speech_requests(engine: Engine, seed: int, count: int) -> list[Request]:
    """Text to speech in several languages and voices, with both kinds of durations, some of it sampled."""
    rng = random.Random(seed)
    languages = engine.languages("t2st")
    return [
        Request(
            "t2st",
            rng.choice(languages),
            text=rng.choice(TEXTS),
            src_lang="eng",
            speaker_id=rng.randrange(2),
            params=DecodingParams(
                num_beams=3,
                num_return_sequences=rng.choice([1, 1, 3]),
                max_new_tokens=rng.choice([1, 4, 12]),
                vocoder_durations=rng.random() < 0.5,
                speech_do_sample=rng.random() < 0.5,
                speech_temperature=0.8,
                seed=rng.randrange(2**40),
            ),
        )
        for _ in range(count)
    ]


def same_hypotheses(a: Result, b: Result) -> bool:
    return same(a, b) and all(
        np.array_equal(x.units, y.units) and np.array_equal(x.audio, y.audio)  # type: ignore[arg-type]
        for x, y in zip(a.n_best, b.n_best, strict=True)
    )


@pytest.mark.parametrize("seed", range(2))
def test_synthesis_is_batch_invariant(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    engine = Engine.from_pretrained(
        checkpoint(seed), device="cpu", tasks=["t2st"], options=EngineConfig(max_synthesis_tokens=10_000)
    )
    requests = speech_requests(engine, seed, 14)
    alone = [engine.generate([request])[0] for request in requests]
    assert sum(len(result.n_best) for result in alone) > len(requests)
    assert not any(result.error for result in alone)
    monkeypatch.setattr(synthesizer, "LOGIT_ROWS", 7)  # the logits of a sentence are computed in parts, too
    together = engine.generate(requests)
    assert all(same_hypotheses(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_synthesis_equals_the_reference(checkpoint: Checkpoint, seed: int) -> None:
    folder = checkpoint(seed)
    engine = Engine.from_pretrained(
        folder, device="cpu", tasks=["t2st"], options=EngineConfig(max_synthesis_tokens=10_000)
    )
    languages = engine.languages("t2st")
    requests = [
        Request("t2st", languages[i % len(languages)], text=text, src_lang="fra", speaker_id=i % 2)
        for i, text in enumerate(TEXTS)
    ]
    found = [
        agreement(r, request, load(folder)) for r, request in zip(engine.generate(requests), requests, strict=True)
    ]
    assert all(one.holds for one in found), found
    assert sum(one.waveform is not None for one in found) >= 4


def test_sampled_units_depend_on_the_seed_alone(checkpoint: Checkpoint) -> None:
    engine = Engine.from_pretrained(checkpoint(1), device="cpu", tasks=["t2st"])

    def units(*seeds: int) -> list[Any]:
        requests = [
            Request(
                "t2st",
                "fra",
                text=TEXTS[0],
                src_lang="eng",
                params=DecodingParams(speech_do_sample=True, speech_temperature=1.5, seed=seed),
            )
            for seed in seeds
        ]
        return [result.units for result in engine.generate(requests)]

    first, second, again = units(5, 2**40 + 5, 5)
    assert np.array_equal(first, again) and len(first) == len(second)
    assert (first != second).any()
    greedy = engine.generate([Request("t2st", "fra", text=TEXTS[0], src_lang="eng")])[0].units
    assert greedy is not None and (first != greedy).any()


def test_expand_of_packed_tokens_with_prompts_has_the_characters_of_the_texts(checkpoint: Checkpoint) -> None:
    config = ModelConfig.from_folder(checkpoint(1))
    table = CharacterTable(config)
    rng = random.Random(1)
    texts = [[rng.randrange(config.vocab_size) for _ in range(rng.choice([0, 1, 2, 9, 30]))] for _ in range(40)]
    texts[3][:1] = [config.eos_token_id]
    prompt = [config.eos_token_id, config.vocab_size - 5]
    tokens = torch.tensor([token for text in texts for token in prompt + text])
    lengths = [len(text) + 2 for text in texts]
    total = sum(table.count(text) for text in texts)
    found = table.expand(tokens, bounds(lengths), prompt=2, total=total)
    plain = table.expand(torch.tensor([t for text in texts for t in text]), bounds([len(text) for text in texts]))
    assert len(found.char_ids) == total and torch.equal(found.char_ids, plain.char_ids)
    counts = [part.tolist() for part in plain.counts.split([len(text) for text in texts])]
    assert found.counts.tolist() == [count for part in counts for count in [0, 0, *part]]


def test_generate_fails_only_the_request_whose_unit_scores_are_not_finite(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine.from_pretrained(
        checkpoint(0), device="cpu", tasks=["t2st"], options=EngineConfig(max_synthesis_tokens=10_000)
    )
    requests = [Request("t2st", "fra", text=text, src_lang="eng") for text in TEXTS[:4]]
    expected = engine.generate(requests)
    assert engine.core.runner.synthesizer is not None
    run_t2u = engine.core.runner.synthesizer.run_t2u

    def poisoned(sentences: Any) -> Any:
        made = run_t2u(sentences)
        for sentence, states in zip(sentences, made.states.split(made.lengths), strict=True):
            if sentence.job.request == requests[2]:
                states[1] = torch.inf
        return made

    monkeypatch.setattr(engine.core.runner.synthesizer, "run_t2u", poisoned)
    results = engine.generate(requests)
    assert "not finite" in str(results[2].error) and results[2].audio is None
    assert all(same(results[i], expected[i]) for i in (0, 1, 3))


@pytest.mark.parametrize("units", [1, 2, 1500, 3000])
def test_t2u_handles_any_number_of_units(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, units: int) -> None:
    """From the characters of one token to a minute of speech, it equals transformers' T2U model."""
    folder = checkpoint(2)
    t2u = parts(folder).t2u
    assert t2u is not None
    states, counts = normal(3, parts(folder).config.hidden_size), torch.tensor([0, min(units, 100), 0])
    chars = torch.arange(int(counts.sum())) % 40
    each = units // len(chars)
    monkeypatch.setattr(t2u, "durations", lambda x, cu: torch.full((len(x),), each))
    model = load(folder).model.t2u_model
    predictor = model.model.decoder.duration_predictor
    monkeypatch.setattr(predictor, "forward", lambda x, **_: torch.full(x.shape[:2], each + 1.0).log())
    with torch.inference_mode():
        made = t2u(states, bounds([3]), torch.tensor([3], dtype=torch.int32), chars, counts)
        logits = model(
            inputs_embeds=states[None],
            char_input_ids=chars[None],
            char_count_per_id=counts[None],
            attention_mask=torch.ones(1, 3),
        )[0][0]
    assert made.lengths == [units] and len(logits) == units
    best = logits.topk(2).values
    clear = best[:, 0] - best[:, 1] > MARGIN
    assert torch.equal(t2u.logits(made.states).argmax(-1)[clear], logits.argmax(-1)[clear])
    assert clear.float().mean() > 0.99


def test_generate_computes_the_last_tanh_clip_by_clip(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch can compute tanh in another way for the end of a tensor: a clip must not depend on its place in a pass."""
    sizes, tanh = [], torch.tanh
    monkeypatch.setattr(torch, "tanh", lambda x: (sizes.append(len(x)), tanh(x))[1])
    engine = Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["t2st"])
    results = engine.generate([Request("t2st", "fra", text=text, src_lang="eng") for text in TEXTS[:3]])
    assert sorted(sizes) == sorted(len(result.audio) for result in results if result.audio is not None)
