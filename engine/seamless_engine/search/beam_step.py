"""One beam step of all searches at once: candidates → next beams and finished hypotheses.

Semantics are those of transformers' `_beam_search` at batch size 1 (greedy is one beam that stops at its first eos).
Pure functions of tensors, static in shape, no host reads. The order is total on ties: (score, parent, token).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

NEVER = -1.0e9  # the reference's score of an empty slot


@dataclass(frozen=True)
class Rules:
    """What each of n searches asks for at this step."""

    num_beams: torch.Tensor  # int64 [n]
    eos: int
    stop_at_full: torch.Tensor  # bool [n], early_stopping=True, or greedy
    length_norm: torch.Tensor  # float32 [n], generated tokens, this one included, to the power of the length penalty
    best_norm: torch.Tensor  # float32 [n], the same at the length at which a running beam would score best
    last_step: torch.Tensor  # bool [n], this token reaches the length limit


@dataclass(frozen=True)
class Candidates:
    """The best next tokens of every beam, all [n, beams, 2·beams]; −inf keys where a beam is dummy.

    key: what candidates are ranked by (with noise when sampling). value: what the hypothesis is scored by.
    log_prob: the model's own.
    """

    tokens: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    log_prob: torch.Tensor


@dataclass(frozen=True)
class Finished:
    """The best finished hypotheses of n searches, best first; empty slots score NEVER."""

    score: torch.Tensor  # float32 [n, beams]
    occupied: torch.Tensor  # bool [n, beams]


@dataclass(frozen=True)
class Outcome:
    """parent, token (int64), score, log_prob [n, beams]: of the next running beams. finished: the new slots.
    origin int64 [n, beams]: where each slot comes from, an old slot below `beams`, else beams + parent; last_token and
    last_log_prob are valid for the latter. over bool [n]: the search has ended. broken bool [n]: the model produced a
    NaN."""

    parent: torch.Tensor
    token: torch.Tensor
    score: torch.Tensor
    log_prob: torch.Tensor
    finished: Finished
    origin: torch.Tensor
    last_token: torch.Tensor
    last_log_prob: torch.Tensor
    over: torch.Tensor
    broken: torch.Tensor


def advance(running_score: torch.Tensor, candidates: Candidates, finished: Finished, rules: Rules) -> Outcome:
    """running_score float32 [n, beams]. Beams of search i from num_beams[i] on are dummy. Before its first
    choice every beam but the first is."""
    beams = running_score.shape[1]
    device = running_score.device
    broken = candidates.value.isnan().any(-1).any(-1)
    live = torch.arange(beams, device=device) < rules.num_beams[:, None]  # [n, beams]

    score, parent, token, log_prob = _rank(running_score, candidates, rules)  # [n, 2·beams], best first
    kept = torch.arange(2 * beams, device=device) < 2 * rules.num_beams[:, None]
    score = score.masked_fill(~kept, -torch.inf)
    stops = (token == rules.eos) | rules.last_step[:, None]

    # Only the best num_beams candidates may finish; the rest exist so that enough beams go on.
    may_finish = torch.arange(2 * beams, device=device) < rules.num_beams[:, None]
    final = score / rules.length_norm[:, None]
    final = final + (~(stops & may_finish)).float() * NEVER
    merged = torch.cat([finished.score.masked_fill(~live, -torch.inf), final], dim=1)
    best = torch.sort(merged, dim=1, descending=True, stable=True).indices[:, :beams]
    done_score = merged.gather(1, best)
    occupied = torch.cat([finished.occupied, stops & may_finish], dim=1).gather(1, best) & live
    candidate = (best - beams).clamp(min=0)
    origin = torch.where(best < beams, best, beams + parent.gather(1, candidate))
    last_token = token.gather(1, candidate)

    going = score + stops.float() * NEVER
    # Beams go on by score; a single hypothesis goes on with what it chose or sampled.
    chosen = stops.float() * NEVER - torch.arange(2 * beams, device=device)
    order = torch.where(rules.num_beams[:, None] > 1, going, chosen).sort(dim=1, descending=True, stable=True).indices
    order = order[:, :beams]
    going = going.gather(1, order).masked_fill(~live, -torch.inf)

    full = (occupied | ~live).all(1)
    worst = done_score.masked_fill(~live, torch.inf).amin(1)
    attainable = going[:, 0] / rules.best_norm
    # A slot can still improve if it is empty and anything is attainable, or if the worst hypothesis can be beaten.
    hopeful = torch.where(occupied, attainable[:, None] > worst[:, None], attainable[:, None] > NEVER)
    over = ~(hopeful & live).any(1) | (rules.stop_at_full & full) | (stops | ~kept).all(1)
    return Outcome(
        parent=parent.gather(1, order),
        token=token.gather(1, order),
        score=going,
        log_prob=log_prob.gather(1, order),
        finished=Finished(done_score, occupied),
        origin=origin,
        last_token=last_token,
        last_log_prob=log_prob.gather(1, candidate),
        over=over,
        broken=broken,
    )


def _rank(running_score: torch.Tensor, candidates: Candidates, rules: Rules) -> tuple[torch.Tensor, ...]:
    """Scores, parents, tokens and log-probabilities of the best 2·beams candidates of a search, in the total order."""
    n, beams, width = candidates.tokens.shape
    tokens, order = candidates.tokens.sort(dim=2)
    # A single hypothesis is ranked by its keys alone: the sum with its score could round two different keys together.
    base = torch.where(rules.num_beams[:, None] > 1, running_score, 0.0)
    key = base[:, :, None] + candidates.key.gather(2, order)
    best = torch.sort(key.flatten(1), dim=1, descending=True, stable=True).indices[:, : 2 * beams]
    score = running_score[:, :, None] + candidates.value.gather(2, order)
    log_prob = candidates.log_prob.gather(2, order)
    parent = best // width
    return (
        score.flatten(1).gather(1, best),
        parent,
        tokens.flatten(1).gather(1, best),
        log_prob.flatten(1).gather(1, best),
    )
