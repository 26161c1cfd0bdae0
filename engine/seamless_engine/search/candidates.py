"""The candidates of every beam at a step: log-softmax, processors, and the best (or drawn) few of the vocabulary."""

from __future__ import annotations

import torch

from seamless_engine.block_manager import PROMPT_LENGTH
from seamless_engine.models.text_decoder import NextTokens, StepInputs
from seamless_engine.search.beam_step import Candidates
from seamless_engine.search.processors import ban_list, gumbel, penalise_repetition, warp
from seamless_engine.search.state import FloatParam, IntParam, SearchState
from seamless_engine.search.step_batch import StepBatch
from seamless_kernels.top_candidates import ban, top_candidates


def choose_candidates(state: SearchState, batch: StepBatch, inputs: StepInputs, expected: NextTokens) -> Candidates:
    """The next tokens of m lines → [n, beams, 2·beams] for each search of the batch."""
    beams, device = batch.graph_key.beams, expected.hidden.device
    count = min(2 * beams, len(expected.head))
    banned = _banned(state, batch, inputs)
    special = torch.tensor(batch.graph_key.special, device=device)
    logits = expected.logits if len(special) else None
    log_prob, tokens = expected.best(count, banned)
    key = value = log_prob
    if logits is not None:
        key, value, log_prob, tokens = log_prob.clone(), log_prob.clone(), log_prob, tokens
        changed = _special(state, inputs, logits, special, count, banned)
        for whole, part in zip((tokens, key, value, log_prob), changed, strict=True):
            whole[special] = part
    beam = torch.arange(beams, device=device)
    choosing = beam < batch.search_active[:, None]
    lines = torch.where(choosing, batch.search_line[:, None] + beam, len(log_prob))  # [n, beams]
    # Too small a vocabulary, and beams that do not search, give candidates that cannot be chosen.
    padding = (0, 2 * beams - count, 0, 1)
    padded = [torch.nn.functional.pad(x, padding, value=-torch.inf)[lines] for x in (key, value, log_prob)]
    # A search has as many candidates as it would have alone, whoever else is wider.
    own = 2 * state.whole[batch.search_id, IntParam.NUM_BEAMS][:, None, None]
    beyond = torch.arange(2 * beams, device=device) >= own
    key, value, log_prob = (x.masked_fill(beyond, -torch.inf) for x in padded)
    return Candidates(torch.nn.functional.pad(tokens, padding)[lines], key, value, log_prob)


def rows_of(state: SearchState, batch: StepBatch, ids: torch.Tensor) -> torch.Tensor:
    """int64 [n, beams]: the rows of searches, dummy ones where a search has fewer beams than the widest."""
    return state.rows[ids, : batch.graph_key.beams].long()


def _history(state: SearchState, inputs: StepInputs) -> torch.Tensor:
    """int64 [m, width]: ids that each line has read, prompt included; what follows `lengths` means nothing."""
    slots = inputs.slot_table[inputs.rows].long()
    unread = torch.arange(slots.shape[1], device=slots.device) >= inputs.lengths[:, None]
    return state.token_pool[slots.masked_fill(unread, 0)]


def _banned(state: SearchState, batch: StepBatch, inputs: StepInputs) -> torch.Tensor | None:
    """int64 [m, width]: tokens that a line may not choose, −1 for none."""
    graph_key = batch.graph_key
    if not (graph_key.bans or graph_key.ngram or graph_key.min_new_tokens):
        return None
    search = state.search_of[inputs.rows].long()
    whole = state.whole[search]
    words = state.bad_word_token[search, : graph_key.bans], state.bad_word_offset[search, : graph_key.bans]
    return ban_list(
        history=_history(state, inputs),
        lengths=inputs.lengths.long(),
        words=words,
        bans=whole[:, IntParam.BANS],
        ngram=whole[:, IntParam.NGRAM],
        longest_ngram=graph_key.ngram,
        early=inputs.lengths - PROMPT_LENGTH < whole[:, IntParam.MIN_NEW_TOKENS],
        eos=state.eos,
    )


def _special(
    state: SearchState,
    inputs: StepInputs,
    logits: torch.Tensor,
    lines: torch.Tensor,
    count: int,
    banned: torch.Tensor | None,
) -> tuple[torch.Tensor, ...]:
    """Tokens, keys, values and log-probabilities of lines whose scores are changed before the choice, or that draw."""
    rows, lengths = inputs.rows[lines], inputs.lengths[lines].long()
    search = state.search_of[rows].long()
    whole, real = state.whole[search], state.real[search]
    single = (whole[:, IntParam.NUM_BEAMS] == 1)[:, None]
    samples = (whole[:, IntParam.SAMPLE] != 0)[:, None]
    log_probs = torch.log_softmax(logits[lines], dim=-1)
    scores = torch.where(single, logits[lines], log_probs)
    history = _history(state, inputs)[lines]
    scores = penalise_repetition(scores, history, lengths, real[:, FloatParam.REPETITION_PENALTY])
    if banned is not None:
        scores = ban(scores, banned[lines])
    keep = torch.where(single[:, 0], 1, 2)  # beams need a second candidate beside eos
    warped = warp(scores, real[:, FloatParam.TEMPERATURE], whole[:, IntParam.TOP_K], real[:, FloatParam.TAIL], keep)
    scores = torch.where(samples, warped, scores)
    beam = (state.rows[search] == rows[:, None]).int().argmax(1)
    noise = gumbel(
        whole[:, IntParam.SEED_LOW],
        whole[:, IntParam.SEED_HIGH],
        lengths - PROMPT_LENGTH,
        whole[:, IntParam.STREAM] + beam,
        scores.shape[1],
    )
    keys = torch.where(samples, scores + noise, scores)
    tokens = top_candidates(keys, count)[1]
    key = keys.gather(1, tokens)
    # A single hypothesis is scored by the model's own probabilities, a beam by those it was searched with.
    value = torch.where(single, log_probs, scores).gather(1, tokens)
    return tokens, key, value.masked_fill(key == -torch.inf, -torch.inf), log_probs.gather(1, tokens)
