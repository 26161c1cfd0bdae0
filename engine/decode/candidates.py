"""The candidates of every beam at a step: log-softmax, processors, and the best (or drawn) few of the vocabulary."""

from __future__ import annotations

import torch

from seamless_engine.decode.block_manager import PROMPT_LENGTH
from seamless_engine.decode.buffers import DecodeBuffers, Real, Whole
from seamless_engine.decode.layout import StepLayout
from seamless_engine.decode.processors import ban_list, gumbel, penalise_repetition, warp
from seamless_engine.decode.search import Candidates
from seamless_engine.models.text_decoder import NextTokens, StepInputs
from seamless_kernels.top_candidates import ban, top_candidates


def choose_candidates(
    buffers: DecodeBuffers, layout: StepLayout, inputs: StepInputs, expected: NextTokens
) -> Candidates:
    """The next tokens of m lines → [n, beams, 2·beams] for each search of the layout."""
    beams, device = layout.traits.beams, expected.hidden.device
    count = min(2 * beams, len(expected.head))
    banned = _banned(buffers, layout, inputs)
    special = torch.tensor(layout.traits.special, device=device)
    logits = expected.logits if len(special) else None
    log_prob, tokens = expected.best(count, banned)
    key = value = log_prob
    if logits is not None:
        key, value, log_prob, tokens = log_prob.clone(), log_prob.clone(), log_prob, tokens
        changed = _special(buffers, inputs, logits, special, count, banned)
        for whole, part in zip((tokens, key, value, log_prob), changed, strict=True):
            whole[special] = part
    beam = torch.arange(beams, device=device)
    choosing = beam < layout.search_active[:, None]
    lines = torch.where(choosing, layout.search_line[:, None] + beam, len(log_prob))  # [n, beams]
    # Too small a vocabulary, and beams that do not search, give candidates that cannot be chosen.
    padding = (0, 2 * beams - count, 0, 1)
    padded = [torch.nn.functional.pad(x, padding, value=-torch.inf)[lines] for x in (key, value, log_prob)]
    # A search has as many candidates as it would have alone, whoever else is wider.
    own = 2 * buffers.whole[layout.search_id, Whole.NUM_BEAMS][:, None, None]
    beyond = torch.arange(2 * beams, device=device) >= own
    key, value, log_prob = (x.masked_fill(beyond, -torch.inf) for x in padded)
    return Candidates(torch.nn.functional.pad(tokens, padding)[lines], key, value, log_prob)


def rows_of(buffers: DecodeBuffers, layout: StepLayout, ids: torch.Tensor) -> torch.Tensor:
    """int64 [n, beams]: the rows of searches, inert ones where a search has fewer beams than the widest."""
    return buffers.rows[ids, : layout.traits.beams].long()


def _history(buffers: DecodeBuffers, inputs: StepInputs) -> torch.Tensor:
    """int64 [m, width]: ids that each line has read, prompt included; what follows `lengths` means nothing."""
    slots = inputs.slot_table[inputs.rows].long()
    unread = torch.arange(slots.shape[1], device=slots.device) >= inputs.lengths[:, None]
    return buffers.token_pool[slots.masked_fill(unread, 0)]


def _banned(buffers: DecodeBuffers, layout: StepLayout, inputs: StepInputs) -> torch.Tensor | None:
    """int64 [m, width]: tokens that a line may not choose, −1 for none."""
    traits = layout.traits
    if not (traits.bans or traits.ngram or traits.min_new_tokens):
        return None
    search = buffers.search_of[inputs.rows].long()
    whole = buffers.whole[search]
    words = buffers.ban_token[search, : traits.bans], buffers.ban_distance[search, : traits.bans]
    return ban_list(
        history=_history(buffers, inputs),
        lengths=inputs.lengths.long(),
        words=words,
        bans=whole[:, Whole.BANS],
        ngram=whole[:, Whole.NGRAM],
        longest_ngram=traits.ngram,
        early=inputs.lengths - PROMPT_LENGTH < whole[:, Whole.MIN_NEW_TOKENS],
        eos=buffers.eos,
    )


def _special(
    buffers: DecodeBuffers,
    inputs: StepInputs,
    logits: torch.Tensor,
    lines: torch.Tensor,
    count: int,
    banned: torch.Tensor | None,
) -> tuple[torch.Tensor, ...]:
    """Tokens, keys, values and log-probabilities of lines whose scores are changed before the choice, or that draw."""
    rows, lengths = inputs.rows[lines], inputs.lengths[lines].long()
    search = buffers.search_of[rows].long()
    whole, real = buffers.whole[search], buffers.real[search]
    single = (whole[:, Whole.NUM_BEAMS] == 1)[:, None]
    samples = (whole[:, Whole.SAMPLE] != 0)[:, None]
    log_probs = torch.log_softmax(logits[lines], dim=-1)
    scores = torch.where(single, logits[lines], log_probs)
    history = _history(buffers, inputs)[lines]
    scores = penalise_repetition(scores, history, lengths, real[:, Real.REPETITION_PENALTY])
    if banned is not None:
        scores = ban(scores, banned[lines])
    keep = torch.where(single[:, 0], 1, 2)  # beams need a second candidate beside eos
    warped = warp(scores, real[:, Real.TEMPERATURE], whole[:, Whole.TOP_K], real[:, Real.TAIL], keep)
    scores = torch.where(samples, warped, scores)
    beam = (buffers.rows[search] == rows[:, None]).int().argmax(1)
    noise = gumbel(
        whole[:, Whole.SEED_LOW],
        whole[:, Whole.SEED_HIGH],
        lengths - PROMPT_LENGTH,
        whole[:, Whole.STREAM] + beam,
        scores.shape[1],
    )
    keys = torch.where(samples, scores + noise, scores)
    tokens = top_candidates(keys, count)[1]
    key = keys.gather(1, tokens)
    # A single hypothesis is scored by the model's own probabilities, a beam by those it was searched with.
    value = torch.where(single, log_probs, scores).gather(1, tokens)
    return tokens, key, value.masked_fill(key == -torch.inf, -torch.inf), log_probs.gather(1, tokens)
