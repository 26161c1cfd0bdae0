"""One step of the search for every request at once: candidates → next beams and finished hypotheses.

Semantics are those of transformers' `_beam_search` at batch size 1 (greedy is one beam that stops at its first eos).
Pure functions of tensors, static in shape, no host reads; padded beams are inert. Order is total on ties:
(score, parent, token).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

NEVER = -1.0e9  # the reference's score of an empty slot


@dataclass(frozen=True)
class Rules:
    """What each of n requests asks for at this step."""

    num_beams: torch.Tensor  # int64 [n]
    eos: int
    stop_at_full: torch.Tensor  # bool [n], early_stopping=True, or greedy
    length_norm: torch.Tensor  # float32 [n], generated tokens, this one included, to the power of the length penalty
    best_norm: torch.Tensor  # float32 [n], the same at the length at which a running beam would score best
    last_step: torch.Tensor  # bool [n], this token reaches the length limit


@dataclass(frozen=True)
class Finished:
    """The best finished hypotheses of n requests, best first; empty slots score NEVER."""

    score: torch.Tensor  # float32 [n, beams]
    occupied: torch.Tensor  # bool [n, beams]


@dataclass(frozen=True)
class Outcome:
    """running: parents and tokens int64, scores float32, all [n, beams]. finished: the new slots, and where each came
    from: `origin` int64 [n, beams] is an old slot below `beams`, else beams + parent; `last_token` is valid for the
    latter. over bool [n]: the request is done. broken bool [n]: its model produced a NaN."""

    parent: torch.Tensor
    token: torch.Tensor
    score: torch.Tensor
    finished: Finished
    origin: torch.Tensor
    last_token: torch.Tensor
    over: torch.Tensor
    broken: torch.Tensor


def advance(
    running_score: torch.Tensor,
    log_probs: torch.Tensor,
    tokens: torch.Tensor,
    finished: Finished,
    rules: Rules,
) -> Outcome:
    """running_score [n, beams]; candidates of each beam: log_probs and tokens [n, beams, 2·beams], −inf where inert.

    Beam b of request i is inert from num_beams[i] on, and all but the first are before the first choice.
    """
    n, beams, width = log_probs.shape
    device = log_probs.device
    broken = log_probs.isnan().any(-1).any(-1)
    live = torch.arange(beams, device=device) < rules.num_beams[:, None]  # [n, beams]

    score, parent, token = _rank(running_score, log_probs, tokens)  # [n, beams · width], best first
    kept = torch.arange(2 * beams, device=device) < 2 * rules.num_beams[:, None]
    score = score[:, : 2 * beams].masked_fill(~kept, -torch.inf)
    parent, token = parent[:, : 2 * beams], token[:, : 2 * beams]
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
    going, order = torch.sort(going, dim=1, descending=True, stable=True)
    going, order = going[:, :beams].masked_fill(~live, -torch.inf), order[:, :beams]

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
        finished=Finished(done_score, occupied),
        origin=origin,
        last_token=last_token,
        over=over,
        broken=broken,
    )


def _rank(
    running_score: torch.Tensor, log_probs: torch.Tensor, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores, parents and tokens of all candidates of a request, [n, beams · width], in the total order."""
    n, beams, width = log_probs.shape
    tokens, order = tokens.sort(dim=2)
    score = running_score[:, :, None] + log_probs.gather(2, order)
    score, order = torch.sort(score.flatten(1), dim=1, descending=True, stable=True)
    return score, order // width, tokens.flatten(1).gather(1, order)
