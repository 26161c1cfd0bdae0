"""The candidates of every beam at a step: log-softmax, processors, and the best (or drawn) few of the vocabulary."""

from __future__ import annotations

import torch

from seamless_engine.decode.buffers import DecodeBuffers, Layout, Member
from seamless_engine.decode.processors import banned_tokens, gumbel, penalise_repetition, warp
from seamless_engine.decode.search import Candidates
from seamless_kernels.top_candidates import top_candidates

UNK = 1


def choose_candidates(logits: torch.Tensor, layout: Layout, buffers: DecodeBuffers, eos: int) -> Candidates:
    """logits float32 [lines, vocab] of the beams that search → [n, beams, 2·beams] for each member of the layout."""
    beams = layout.rows.shape[1]
    count = min(2 * beams, logits.shape[1])
    log_probs, tokens = top_candidates(logits, count, _bans(layout, buffers, eos))
    # Too small a vocabulary, and beams that do not search, give candidates that cannot be chosen.
    padding = (0, 2 * beams - count, 0, 1)
    log_probs = torch.nn.functional.pad(log_probs, padding, value=-torch.inf)[layout.candidates]
    tokens = torch.nn.functional.pad(tokens, padding)[layout.candidates]
    found = Candidates(tokens, key=log_probs, value=log_probs, log_prob=log_probs)
    special = [i for i, member in enumerate(layout.members) if _is_special(member)]
    if special:
        found = Candidates(tokens, log_probs.clone(), log_probs.clone(), log_probs.clone())
        for i in special:
            _fill(found, i, count, logits, layout, buffers, eos)
    return found


def _is_special(member: Member) -> bool:
    return member.params.do_sample or member.params.repetition_penalty != 1.0


def _bans(layout: Layout, buffers: DecodeBuffers, eos: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Lines and tokens that may not be chosen, of the members whose scores are the model's own."""
    lines, tokens = [], []
    for i, member in enumerate(layout.members):
        if not _is_special(member):
            row, token = _banned(layout, buffers, i, eos)
            if len(row):
                lines.append(layout.candidates[i][row])
                tokens.append(token)
    return (torch.cat(lines), torch.cat(tokens)) if lines else None


def _banned(layout: Layout, buffers: DecodeBuffers, index: int, eos: int) -> torch.Tensor:
    member = layout.members[index]
    if not member.bans:
        return layout.rows.new_empty(2, 0)
    return banned_tokens(member.params, buffers.history(layout, index), member.job.generated, eos, UNK)


def _fill(
    found: Candidates,
    index: int,
    count: int,
    logits: torch.Tensor,
    layout: Layout,
    buffers: DecodeBuffers,
    eos: int,
) -> None:
    """Candidates of one member whose scores are changed before the choice, or that draws."""
    member, params = layout.members[index], layout.members[index].params
    lines = layout.candidates[index][: layout.active(index)]
    log_probs = torch.log_softmax(logits[lines], dim=-1)
    single = params.num_beams == 1
    scores = logits[lines] if single else log_probs
    if params.repetition_penalty != 1.0:
        scores = penalise_repetition(scores, buffers.history(layout, index), params.repetition_penalty)
    row, token = _banned(layout, buffers, index, eos)
    scores = scores.index_put((row, token), scores.new_tensor(-torch.inf))
    keys = scores
    if params.do_sample:
        scores = warp(scores, params)
        streams = [member.draw * params.num_beams + beam for beam in range(len(lines))]
        keys = scores + gumbel(params.seed, member.job.generated, streams, scores.shape[1], scores.device)
    tokens = top_candidates(keys, count)[1]
    at = (index, slice(len(lines)), slice(count))
    found.tokens[at] = tokens
    found.key[at] = keys.gather(1, tokens)
    found.log_prob[at] = log_probs.gather(1, tokens)
    # A single hypothesis is scored by the model's own probabilities, a beam by those it was searched with.
    value = (log_probs if single else scores).gather(1, tokens)
    found.value[at] = value.masked_fill(found.key[at] == -torch.inf, -torch.inf)
