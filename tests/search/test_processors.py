"""Processors are transformers'; samples have the right distribution and do not depend on the batch."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from seamless_engine import DecodingParams, Engine, Request, UsageError
from seamless_engine.search.processors import banned_tokens, gumbel, repetition_penalty, warp
from seamless_engine.search.state import bad_word_entries
from seamless_engine.synthesizer import choose_units
from seamless_kernels.top_candidates import mask_banned
from support.audio import clip_of_samples
from support.on_cpu import normal
from support.oracle import load
from support.parity import CLIPS, TEXTS, random_request, same
from tolerance import assert_waveform_close

EOS, UNK = 3, 1


def without_banned(scores: torch.Tensor, params: DecodingParams, history: torch.Tensor) -> torch.Tensor:
    """As queries of a batch in which others mask_banned more tokens, and have read more."""
    queries, length = history.shape
    words = torch.from_numpy(bad_word_entries(params.bad_words(EOS, UNK)))
    entries = torch.nn.functional.pad(words, (0, 5), value=2)[:, None].expand(-1, queries, -1)
    banned = banned_tokens(
        history=torch.nn.functional.pad(history, (0, 4), value=1),
        lengths=torch.full((queries,), length),
        words=(entries[0], entries[1]),
        num_bad_word_tokens=torch.full((queries,), words.shape[1]),
        ngram_size=torch.full((queries,), params.no_repeat_ngram_size),
        max_ngram_size=max(params.no_repeat_ngram_size, 4),
        too_short=torch.full((queries,), max(length - 2, 0) < params.min_new_tokens),
        eos=EOS,
    )
    return mask_banned(scores, banned)


def warped(scores: torch.Tensor, params: DecodingParams) -> torch.Tensor:
    queries = len(scores)
    return warp(
        scores,
        torch.full((queries,), params.temperature),
        torch.full((queries,), params.top_k),
        torch.full((queries,), 1.0 - params.top_p if params.top_p < 1.0 else -1.0),
        torch.full((queries,), 1 if params.num_beams == 1 else 2),
    )


def noise(seed: int, step: int, streams: list[int], vocab: int) -> torch.Tensor:
    low, high, at = (torch.full((len(streams),), x) for x in (seed & 0xFFFFFFFF, seed >> 32, step))
    return gumbel(low, high, at, torch.tensor(streams), vocab)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_banned_tokens_has_the_ngrams_of_transformers(size: int) -> None:
    for seed in range(20):
        history = torch.randint(0, 4, (3, 1 + seed), generator=torch.Generator().manual_seed(seed))
        scores = normal(3, 9, seed=seed)
        processor: Any = NoRepeatNGramLogitsProcessor(size)
        expected = processor(history, scores.clone())
        assert torch.equal(without_banned(scores, DecodingParams(no_repeat_ngram_size=size), history), expected)


def test_banned_tokens_has_the_bad_words_of_transformers() -> None:
    words = ((4,), (1, 2), (0, 1, 2, 5), (3,))
    for seed in range(20):
        history = torch.randint(0, 4, (3, 2 + seed % 5), generator=torch.Generator().manual_seed(seed))
        scores = normal(3, 9, seed=seed)
        processor: Any = NoBadWordsLogitsProcessor([list(word) for word in words], EOS)
        expected = processor(history, scores.clone())
        assert torch.equal(without_banned(scores, DecodingParams(bad_words_ids=words), history), expected)


def test_banned_tokens_has_suppressed_tokens_unk_and_an_early_eos() -> None:
    params = DecodingParams(suppress_tokens=(7, 5), block_unk=True, min_new_tokens=4)
    history = torch.zeros(2, 5, dtype=torch.int64)
    banned = without_banned(torch.zeros(2, 9), params, history).isinf()
    assert banned.nonzero().tolist() == [[r, t] for r in range(2) for t in (1, 3, 5, 7)]
    assert not without_banned(torch.zeros(2, 9), params, torch.zeros(2, 6, dtype=torch.int64))[:, EOS].isinf().any()


def test_repetition_penalty_equals_transformers() -> None:
    history = torch.randint(0, 30, (4, 12), generator=torch.Generator().manual_seed(1))
    scores = normal(4, 50)
    processor: Any = RepetitionPenaltyLogitsProcessor(1.7)
    expected = processor(history, scores.clone())
    unread = torch.nn.functional.pad(history, (0, 3), value=31)
    found = repetition_penalty(scores, unread, torch.full((4,), 12), torch.full((4,), 1.7))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(
    "temperature,top_k,top_p", [(0.6, 50, 1.0), (1.0, 5, 1.0), (1.3, 0, 0.7), (2.0, 1, 0.01), (1.0, 20, 0.4)]
)
def test_warp_equals_transformers(temperature: float, top_k: int, top_p: float, beams: int) -> None:
    scores = normal(6, 200) * 3
    keep = 1 if beams == 1 else 2
    warpers: list[Any] = [TemperatureLogitsWarper(temperature)] if temperature != 1.0 else []
    warpers += [TopKLogitsWarper(top_k, min_tokens_to_keep=keep)] if top_k else []
    warpers += [TopPLogitsWarper(top_p, min_tokens_to_keep=keep)] if top_p < 1.0 else []
    expected = scores.clone()
    for warper in warpers:
        expected = warper(torch.zeros(6, 1, dtype=torch.int64), expected)
    params = DecodingParams(num_beams=beams, do_sample=True, temperature=temperature, top_k=top_k, top_p=top_p)
    assert torch.equal(warped(scores, params), expected)


def test_gumbel_samples_have_the_distribution_of_the_scores() -> None:
    scores = normal(1, 12)[0]
    probability = scores.softmax(-1).double()
    samples = 20_000
    order = (scores + noise(9, 4, list(range(samples)), 12)).topk(2, dim=-1).indices
    first = torch.bincount(order[:, 0], minlength=12)
    # Pearson's statistic has 11 degrees of freedom; it exceeds 31 once in a thousand experiments.
    assert ((first - samples * probability) ** 2 / (samples * probability)).sum() < 31
    # The second is sampled without replacement: p_i · p_j / (1 − p_i). 131 degrees of freedom, 1 in 1000: 186.
    pair = torch.bincount(order[:, 0] * 12 + order[:, 1], minlength=144).view(12, 12)
    expected = samples * probability[:, None] * probability / (1 - probability[:, None])
    off = ~torch.eye(12, dtype=torch.bool)
    assert ((pair - expected) ** 2 / expected)[off].sum() < 186


def test_gumbel_is_keyed_by_seed_step_stream_and_token() -> None:
    base = noise(1, 2, [3, 4], 1000)
    assert torch.equal(base[1:], noise(1, 2, [4], 1000))
    for other in (noise(2, 2, [3], 1000), noise(1, 3, [3], 1000), noise(1 + (5 << 32), 2, [3], 1000)):
        assert (other != base[:1]).float().mean() > 0.99
    assert base.unique().numel() > 1990 and base.isfinite().all()


def sampled(rng: random.Random, languages: list[str], seed: int) -> Request:
    request = random_request(rng, languages)
    beams = rng.choice([1, 1, 3])
    request.params = DecodingParams(
        num_beams=beams,
        do_sample=True,
        max_new_tokens=8,
        temperature=rng.choice([0.7, 1.0, 1.5]),
        top_k=rng.choice([0, 5, 50]),
        top_p=rng.choice([1.0, 0.8]),
        num_return_sequences=rng.choice([1, 2, 3]),
        repetition_penalty=rng.choice([1.0, 1.2]),
        speech_do_sample=True,
        speech_temperature=0.8,
        seed=seed,
    )
    return request


def test_generate_samples_the_same_in_any_batch(checkpoint: Callable[[int], Path]) -> None:
    engine = Engine.from_pretrained(checkpoint(1), device="cpu")
    rng = random.Random(3)
    requests = [sampled(rng, engine.languages("s2st"), seed=i % 4) for i in range(16)]
    requests += [random_request(rng, engine.languages("s2st")) for _ in range(6)]
    alone = [engine.generate([request])[0] for request in requests]
    order = rng.sample(range(22), 22)
    together = engine.generate([requests[i] for i in order])
    for i, result in zip(order, together, strict=True):
        assert result.error is None and same(result, alone[i])
        assert len(result.n_best) == (requests[i].params or DecodingParams()).num_return_sequences
        assert [h.tokens for h in result.n_best] == [h.tokens for h in alone[i].n_best]
    request = Request("t2tt", "fra", text=TEXTS[1], src_lang="eng")
    seeds = [DecodingParams(do_sample=True, seed=seed) for seed in range(8)]
    texts = {tuple(engine.generate([request], params)[0].tokens) for params in seeds}
    assert len(texts) > 4


def test_generate_samples_with_the_probabilities_of_transformers(checkpoint: Callable[[int], Path]) -> None:
    """First tokens of many samples against the reference's softmax after its warpers."""
    folder = checkpoint(2)
    engine = Engine.from_pretrained(folder, device="cpu", tasks=["t2tt"])
    request = Request("t2tt", "fra", text=TEXTS[2], src_lang="eng")
    params = DecodingParams(
        do_sample=True, temperature=1.4, top_k=12, top_p=0.9, max_new_tokens=1, num_return_sequences=50
    )
    first = [
        h.tokens[0]
        for s in range(40)
        for h in engine.generate([request], dataclasses.replace(params, seed=s))[0].n_best
    ]
    oracle = load(folder)
    ids = torch.tensor([oracle.source_ids(TEXTS[2], "eng")])
    prompt = torch.tensor([[3, oracle.languages["fra"]]])
    with torch.no_grad():
        logits = oracle.model(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=prompt).logits[
            :, -1
        ]
    probability = warped(logits, params)[0].double().softmax(-1)
    count = torch.bincount(torch.tensor(first), minlength=len(probability)).double()
    likely = probability > 0
    assert count[~likely].sum() == 0
    expected = probability[likely] * len(first)
    assert ((count[likely] - expected) ** 2 / expected).sum() < 2.5 * likely.sum() + 15


def test_generate_with_beams_samples_its_candidates_without_replacement(checkpoint: Callable[[int], Path]) -> None:
    """Two beams and one token: the better of an ordered pair of samples is returned; its probability can be summed."""
    folder = checkpoint(2)
    engine = Engine.from_pretrained(folder, device="cpu", tasks=["t2tt"])
    params = DecodingParams(num_beams=2, do_sample=True, temperature=1.5, top_k=6, max_new_tokens=1)
    samples = [dataclasses.replace(params, seed=seed) for seed in range(1200)]
    requests = [Request("t2tt", "fra", text=TEXTS[2], src_lang="eng", params=sample) for sample in samples]
    count = torch.bincount(torch.tensor([r.tokens[0] for r in engine.generate(requests)])).double()
    oracle = load(folder)
    ids = torch.tensor([oracle.source_ids(TEXTS[2], "eng")])
    prompt = torch.tensor([[3, oracle.languages["fra"]]])
    with torch.no_grad():
        output = oracle.model(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=prompt)
    chance = warped(output.logits[:, -1].log_softmax(-1), params)[0].double().softmax(-1)
    tokens = chance.nonzero()[:, 0].tolist()
    expected = torch.zeros_like(chance)
    for one, other in itertools.permutations(tokens, 2):
        better = one if chance[one] > chance[other] else other
        expected[better] += len(samples) * chance[one] * chance[other] / (1 - chance[one])
    winners = [token for token in tokens if expected[token] > 0]  # all but the least likely
    found, expected = torch.nn.functional.pad(count, (0, len(chance) - len(count)))[winners], expected[winners]
    assert len(winners) == 5 and int(found.sum()) == len(samples)
    # Five outcomes: Pearson's statistic exceeds 18.5 once in a thousand experiments.
    assert ((found - expected) ** 2 / expected).sum() < 18.5


class Forced(LogitsProcessor):
    """Makes transformers generate exactly these tokens after the prompt."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = tokens

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        out = torch.full_like(scores, -torch.inf)
        out[:, self.tokens[input_ids.shape[1] - 2]] = 0.0
        return out  # type: ignore[return-value]


def test_generate_synthesizes_every_returned_sequence_as_alone(checkpoint: Callable[[int], Path]) -> None:
    folder = checkpoint(1)
    engine = Engine.from_pretrained(folder, device="cpu", tasks=["s2st"])
    audio = clip_of_samples(5, CLIPS[3])
    params = DecodingParams(num_beams=4, num_return_sequences=3, max_new_tokens=12, return_token_logprobs=True)
    result = engine.generate([Request("s2st", "fra", audio=audio, sampling_rate=16_000)], params)[0]
    oracle = load(folder)
    features, mask = oracle.features(audio)
    reference = oracle.model.generate(
        input_features=features, attention_mask=mask, tgt_lang="fra", generate_speech=False,
        text_num_beams=4, text_num_return_sequences=3, text_max_new_tokens=12,
    )  # fmt: skip
    assert len(result.n_best) == 3
    assert result.n_best[0].audio is result.audio and result.n_best[0].tokens == result.tokens
    for hypothesis, sequence in zip(result.n_best, reference.sequences[:, 2:].tolist(), strict=True):
        assert hypothesis.tokens == sequence[: len(hypothesis.tokens)]
        assert hypothesis.token_logprobs is not None and len(hypothesis.token_logprobs) == len(hypothesis.tokens)
        assert sum(hypothesis.token_logprobs) / len(hypothesis.tokens) == pytest.approx(hypothesis.score, abs=1e-5)
        spoken = oracle.model.generate(
            input_features=features, attention_mask=mask, tgt_lang="fra", text_max_new_tokens=12,
            text_logits_processor=LogitsProcessorList([Forced(hypothesis.tokens)]),
        )  # fmt: skip
        assert hypothesis.audio is not None
        assert_waveform_close(torch.from_numpy(hypothesis.audio), spoken[0][0])


def test_choose_units_samples_only_at_another_temperature() -> None:
    logits = normal(300, 40)
    assert torch.equal(choose_units(logits, DecodingParams(speech_do_sample=True)), logits.argmax(-1))
    assert torch.equal(choose_units(logits, DecodingParams(speech_temperature=0.5)), logits.argmax(-1))
    sampled_units = choose_units(logits, DecodingParams(speech_do_sample=True, speech_temperature=0.9))
    assert (sampled_units != logits.argmax(-1)).any()
    cold = choose_units(logits, DecodingParams(speech_do_sample=True, speech_temperature=1e-3))
    assert (cold == logits.argmax(-1)).float().mean() > 0.97


def test_meta_equals_its_parts(checkpoint: Callable[[int], Path]) -> None:
    meta = DecodingParams.meta()
    assert (meta.num_beams, meta.soft_max_length, meta.vocoder_durations, meta.speaker_per_language) == (
        5,
        (1, 200),
        False,
        True,
    )
    assert DecodingParams.meta(num_beams=2).num_beams == 2
    engine = Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["t2st", "t2tt"])
    request = Request("t2st", "fra", text=TEXTS[0], src_lang="eng")
    with_durations = engine.generate([request], DecodingParams(max_new_tokens=8))[0]
    without = engine.generate([request], DecodingParams(max_new_tokens=8, vocoder_durations=False))[0]
    assert with_durations.audio is not None and without.audio is not None and without.units is not None
    assert len(without.audio) == 320 * len(without.units) < len(with_durations.audio)
    limited = engine.generate(
        [Request("t2tt", "fra", text=TEXTS[1], src_lang="eng")], DecodingParams(soft_max_length=(0, 4))
    )
    assert len(limited[0].tokens) <= 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_beams": 0}, {"num_beams": 2.0}, {"num_beams": True}, {"max_new_tokens": 0}, {"temperature": 0.0},
        {"temperature": float("nan")}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}, {"length_penalty": float("inf")},
        {"early_stopping": "always"}, {"bad_words_ids": [1, 2]}, {"bad_words_ids": [[]]}, {"suppress_tokens": [[1]]},
        {"suppress_tokens": 5}, {"num_return_sequences": 2}, {"num_return_sequences": 3, "num_beams": 2},
        {"repetition_penalty": 0.0}, {"soft_max_length": (1,)}, {"seed": -1}, {"do_sample": "no"},
    ],
    ids=str,
)  # fmt: skip
def test_decoding_params_refuses_bad_values_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        DecodingParams(**wrong)
