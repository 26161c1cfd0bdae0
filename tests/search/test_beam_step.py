"""The vectorised beam step: the answers of plain Python, for any mixture of requests, with and without ties."""

from __future__ import annotations

import random
import zlib

import pytest
import torch

from seamless_engine.request import DecodingParams
from seamless_engine.search.beam_step import NEVER, Candidates, Finished, Rules, advance
from support.plain_search import Hypothesis, beam_search
from tolerance import SCORE_ATOL

EOS = 3


class ToyModel:
    """Log-probabilities that depend on the whole prefix; `levels` of few values make exact ties."""

    def __init__(self, seed: int, vocab: int, levels: int | None) -> None:
        self.seed, self.vocab, self.levels = seed, vocab, levels

    def __call__(self, tokens: tuple[int, ...]) -> list[float]:
        generator = torch.Generator().manual_seed(zlib.crc32(repr((self.seed, tokens)).encode()))
        if self.levels is None:
            return torch.log_softmax(torch.randn(self.vocab, generator=generator) * 2, dim=0).tolist()
        return (-1.0 - torch.randint(self.levels, (self.vocab,), generator=generator)).float().tolist()


def search_together(models: list[ToyModel], params: list[DecodingParams]) -> list[list[Hypothesis]]:
    """All requests by `advance`, each leaving when it is over; token histories kept in Python."""
    beams = max(p.num_beams for p in params)
    live = list(range(len(models)))
    score = torch.zeros(len(models), beams)
    finished = Finished(torch.full((len(models), beams), NEVER), torch.zeros(len(models), beams, dtype=torch.bool))
    running: list[list[tuple[int, ...]]] = [[()] for _ in models]
    done: list[list[tuple[int, ...]]] = [[()] * beams for _ in models]
    answers: dict[int, list[Hypothesis]] = {}
    step = 0
    while live:
        step += 1
        log_probs = torch.full((len(live), beams, 2 * beams), -torch.inf)
        tokens = torch.zeros(len(live), beams, 2 * beams, dtype=torch.int64)
        for i, request in enumerate(live):
            for beam, prefix in enumerate(running[request][: params[request].num_beams]):
                best = sorted((-v, t) for t, v in enumerate(models[request](prefix)))[: 2 * beams]
                log_probs[i, beam, : len(best)] = -torch.tensor([v for v, _ in best])
                tokens[i, beam, : len(best)] = torch.tensor([t for _, t in best])
        mine = [params[request] for request in live]
        limits = [p.max_new_tokens or 0 for p in mine]
        norm = [float(step) ** p.length_penalty for p in mine]
        best_norm = [
            float(limit) ** p.length_penalty if p.early_stopping == "never" and p.length_penalty > 0 else now
            for p, limit, now in zip(mine, limits, norm, strict=True)
        ]
        rules = Rules(
            num_beams=torch.tensor([p.num_beams for p in mine]),
            eos=EOS,
            stop_at_full=torch.tensor([p.early_stopping is True or p.num_beams == 1 for p in mine]),
            length_norm=torch.tensor(norm),
            best_norm=torch.tensor(best_norm),
            last_step=torch.tensor([step >= limit for limit in limits]),
        )
        before_step = Finished(finished.score[live], finished.occupied[live])
        outcome = advance(score[live], Candidates(tokens, log_probs, log_probs, log_probs), before_step, rules)
        score[live] = outcome.score
        finished.score[live], finished.occupied[live] = outcome.finished.score, outcome.finished.occupied
        still = []
        for i, request in enumerate(live):
            width = params[request].num_beams
            before = running[request] + [()] * beams
            done[request] = [
                done[request][o] if o < beams else (*before[o - beams], t)
                for o, t in zip(outcome.origin[i].tolist(), outcome.last_token[i].tolist(), strict=True)
            ]
            running[request] = [
                (*before[p], t) for p, t in zip(outcome.parent[i].tolist(), outcome.token[i].tolist(), strict=True)
            ][:width]
            if outcome.over[i]:
                answers[request] = [
                    Hypothesis(float(finished.score[request, b]), done[request][b])
                    for b in range(width)
                    if finished.occupied[request, b]
                ]
            else:
                still.append(request)
        live = still
    return [answers[i] for i in range(len(models))]


def random_params(rng: random.Random) -> DecodingParams:
    return DecodingParams(
        num_beams=rng.choice([1, 1, 2, 3, 4, 5]),
        max_new_tokens=rng.choice([1, 2, 3, 7, 12]),
        length_penalty=rng.choice([-1.0, 0.0, 0.6, 1.0, 2.0]),
        early_stopping=rng.choice([False, True, "never"]),
    )


@pytest.mark.parametrize("levels", [None, 2, 5], ids=["distinct", "two-levels", "five-levels"])
def test_advance_of_mixed_requests_equals_the_plain_search_of_each(levels: int | None) -> None:
    for seed in range(30):
        rng = random.Random(seed)
        params = [random_params(rng) for _ in range(rng.randint(1, 7))]
        models = [ToyModel(rng.randrange(10**6), rng.choice([5, 11, 40]), levels) for _ in params]
        together = search_together(models, params)
        for model, p, found in zip(models, params, together, strict=True):
            expected = beam_search(
                model,
                eos=EOS,
                num_beams=p.num_beams,
                max_new_tokens=p.max_new_tokens or 0,
                length_penalty=p.length_penalty,
                early_stopping=p.early_stopping,
            )
            assert [h.tokens for h in found] == [h.tokens for h in expected], (seed, p)
            assert [h.score for h in found] == pytest.approx([h.score for h in expected], abs=SCORE_ATOL)


def test_advance_is_batch_invariant() -> None:
    rng = random.Random(7)
    params = [random_params(rng) for _ in range(12)]
    models = [ToyModel(i, 11, None) for i in range(12)]
    together = search_together(models, params)
    alone = [search_together([m], [p])[0] for m, p in zip(models, params, strict=True)]
    assert together == alone  # scores to the last bit


def test_advance_breaks_the_request_that_has_a_nan() -> None:
    log_probs = torch.log_softmax(torch.randn(3, 2, 4), dim=-1)
    log_probs[1, 0, 2] = torch.nan
    tokens = torch.arange(4).expand(3, 2, 4).contiguous() + 10
    rules = Rules(
        num_beams=torch.tensor([2, 2, 1]),
        eos=EOS,
        stop_at_full=torch.tensor([False, False, True]),
        length_norm=torch.ones(3),
        best_norm=torch.ones(3),
        last_step=torch.zeros(3, dtype=torch.bool),
    )
    empty = Finished(torch.full((3, 2), NEVER), torch.zeros(3, 2, dtype=torch.bool))
    outcome = advance(torch.zeros(3, 2), Candidates(tokens, log_probs, log_probs, log_probs), empty, rules)
    assert outcome.broken.tolist() == [False, True, False]
    assert outcome.score[0].isfinite().all()
