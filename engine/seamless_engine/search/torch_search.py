"""The search by torch: the reference of the compiled one (native_search.py), and what runs where that was not built.

Static in shape and free of host reads. A search that is over is not modified: its queries and the search itself are
replaced by the dummy ones, so the host may learn some steps late that it has ended.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import pad

from seamless_engine.block_manager import PROMPT_LENGTH
from seamless_engine.models.text_decoder import NextTokens, StepInputs
from seamless_engine.search.beam_step import Candidates, Finished, Outcome, Rules, advance
from seamless_engine.search.processors import banned_tokens, process
from seamless_engine.search.schema import IntParam, Status
from seamless_engine.search.state import SearchState
from seamless_engine.search.step_batch import StepBatch
from seamless_kernels.top_candidates import top_candidates
from seamless_kernels.transfer import upload


class TorchSearch:
    """updating: `update_state` has begun to write to the state, and cannot be run again. The caller resets it."""

    def __init__(self, state: SearchState) -> None:
        self.state = state
        self.updating = False

    def prepare_inputs(self, batch: StepBatch, start_token: int) -> StepInputs:
        """What the model reads at this step; its slots are entered into the table, its tokens into the pool."""
        state = self.state
        search = state.search_of[batch.query_beam].long()
        live = state.status[search] == int(Status.SEARCHING)
        beams = torch.where(live, batch.query_beam, state.dummy_beam)
        positions = torch.where(live, state.position[search] + batch.query_offset, 0)
        slots = state.slot_mapping[beams, positions]
        state.slot_table[beams, positions] = slots
        tokens = torch.where(positions == 0, start_token, state.token[beams])
        slots = slots.long()
        state.token_pool[slots] = tokens
        state.log_prob_pool[slots] = state.log_prob[beams]
        self._inputs = StepInputs(
            tokens=tokens,
            positions=positions.long(),
            slots=slots,
            slot_table=state.slot_table[:, : batch.graph_key.width],
            beams=beams,
            lengths=positions + 1,
            cross_table=state.cross_table[:, : batch.graph_key.source_width],
            requests=batch.request_id,
            cross_lengths=state.cross_length[batch.request_id],
            cu_queries=batch.cu_queries,
        )
        return self._inputs

    def update_state(self, batch: StepBatch, expected: NextTokens) -> None:
        """The search: candidates of every beam, next beams and finished hypotheses."""
        state = self.state
        candidates = choose_candidates(state, batch, self._inputs, expected)
        ids = batch.search_id.long()
        live = state.status[ids] == int(Status.SEARCHING)
        ids = torch.where(live, ids, state.dummy_beam)
        beams = state.beam_ids[ids, : batch.graph_key.beams].long()  # [n, beams]; dummy where a search has fewer
        read = self._inputs.lengths[batch.search_query]  # int32 [n], positions read
        finished = Finished(state.finished_score[beams], state.finished_occupied[beams])
        outcome = advance(state.score[beams], candidates, finished, _rules(state, ids, read))
        self.updating = True
        move_tables(state, beams, batch.graph_key.width, read, outcome)
        state.position[ids] = read
        over = torch.where(outcome.over, int(Status.OVER), int(Status.SEARCHING))
        state.status[ids] = torch.where(outcome.broken, int(Status.BROKEN), over).int()
        state.status[state.dummy_beam] = int(Status.OVER)


def choose_candidates(state: SearchState, batch: StepBatch, inputs: StepInputs, expected: NextTokens) -> Candidates:
    """The best next tokens of m queries → [n, beams, 2·beams] for each search of the batch."""
    beams, device = batch.graph_key.beams, expected.hidden.device
    count = min(2 * beams, len(expected.head))
    banned = _banned_tokens(state, batch, inputs)
    (needs_logits,) = upload(device, np.array(batch.graph_key.needs_logits, dtype=np.int64))
    logits = expected.logits if len(needs_logits) else None
    log_prob, tokens = expected.best(count, banned)
    key = value = log_prob
    if logits is not None:
        key, value = log_prob.clone(), log_prob.clone()
        processed = _processed_candidates(state, inputs, logits, needs_logits, count, banned)
        for all_queries, part in zip((tokens, key, value, log_prob), processed, strict=True):
            all_queries[needs_logits] = part
    beam = torch.arange(beams, device=device)
    chooses = beam < batch.search_active[:, None]
    queries = torch.where(chooses, batch.search_query[:, None] + beam, len(log_prob))  # [n, beams]
    # Where the vocabulary is too small, or a beam does not choose, candidates have keys of −inf.
    padding = (0, 2 * beams - count, 0, 1)
    key, value, log_prob = (pad(x, padding, value=-torch.inf)[queries] for x in (key, value, log_prob))
    # A search has as many candidates as it would have alone, also beside a search of more beams.
    own = 2 * state.int_params[batch.search_id, IntParam.NUM_BEAMS][:, None, None]
    beyond = torch.arange(2 * beams, device=device) >= own
    key, value, log_prob = (x.masked_fill(beyond, -torch.inf) for x in (key, value, log_prob))
    return Candidates(pad(tokens, padding)[queries], key, value, log_prob)


def _history(state: SearchState, inputs: StepInputs) -> torch.Tensor:
    """int64 [m, width]: ids that each query's beam has read, prompt included; ids beyond `lengths` mean nothing."""
    slots = inputs.slot_table[inputs.beams].long()
    unread = torch.arange(slots.shape[1], device=slots.device) >= inputs.lengths[:, None]
    return state.token_pool[slots.masked_fill(unread, 0)]


def _banned_tokens(state: SearchState, batch: StepBatch, inputs: StepInputs) -> torch.Tensor | None:
    """int64 [m, width]: tokens that a query may not choose, −1 for none."""
    graph_key = batch.graph_key
    count = graph_key.num_bad_word_tokens
    if not (count or graph_key.ngram_size or graph_key.min_new_tokens):
        return None
    search = state.search_of[inputs.beams].long()
    params = state.int_params[search]
    return banned_tokens(
        history=_history(state, inputs),
        lengths=inputs.lengths.long(),
        words=(state.bad_word_token[search, :count], state.bad_word_offset[search, :count]),
        num_bad_word_tokens=params[:, IntParam.NUM_BAD_WORD_TOKENS],
        ngram_size=params[:, IntParam.NO_REPEAT_NGRAM_SIZE],
        max_ngram_size=graph_key.ngram_size,
        too_short=inputs.lengths - PROMPT_LENGTH < params[:, IntParam.MIN_NEW_TOKENS],
        eos=state.eos,
    )


def _processed_candidates(
    state: SearchState,
    inputs: StepInputs,
    logits: torch.Tensor,
    queries: torch.Tensor,
    count: int,
    banned: torch.Tensor | None,
) -> tuple[torch.Tensor, ...]:
    """Tokens, keys, values and log-probabilities of the candidates of queries whose logits are processed."""
    beams, lengths = inputs.beams[queries], inputs.lengths[queries].long()
    search = state.search_of[beams].long()
    log_probs = torch.log_softmax(logits[queries], dim=-1)
    scores, keys = process(
        logits=logits[queries],
        log_probs=log_probs,
        history=_history(state, inputs)[queries],
        lengths=lengths,
        generated=lengths - PROMPT_LENGTH,
        beam=(state.beam_ids[search] == beams[:, None]).int().argmax(1),
        banned=None if banned is None else banned[queries],
        ints=state.int_params[search],
        floats=state.float_params[search],
    )
    tokens = top_candidates(keys, count)[1]
    key = keys.gather(1, tokens)
    # A single hypothesis is scored by the model's own probabilities, a beam by those it was searched with.
    single = state.int_params[search, IntParam.NUM_BEAMS] == 1
    value = torch.where(single[:, None], log_probs, scores).gather(1, tokens)
    log_prob = log_probs.gather(1, tokens)
    # Without a distribution all are NaN, which the beam step finds.
    return tokens, key, value.masked_fill((key == -torch.inf) & ~log_prob.isnan(), -torch.inf), log_prob


def _rules(state: SearchState, ids: torch.Tensor, read: torch.Tensor) -> Rules:
    params, norm = state.int_params[ids], state.length_norm[ids]
    generated = read.long() - PROMPT_LENGTH + 1  # with the token to be chosen
    limit, stopping = params[:, IntParam.MAX_LENGTH], params[:, IntParam.EARLY_STOPPING]
    now = norm.gather(1, generated.clamp(min=0)[:, None])[:, 0]
    longest = norm.gather(1, limit[:, None] - PROMPT_LENGTH)[:, 0]
    return Rules(
        num_beams=params[:, IntParam.NUM_BEAMS],
        eos=state.eos,
        stop_at_full=stopping == 1,
        length_norm=now,
        best_norm=torch.where(stopping == 2, longest, now),
        last_step=read + 1 >= limit,
    )


def move_tables(state: SearchState, beams: torch.Tensor, width: int, read: torch.Tensor, outcome: Outcome) -> None:
    """Reorder the beams [n, beams]: entries of the tables move, keys and values stay where they are."""
    count = beams.shape[1]
    tables = state.slot_table[beams, :width]  # [n, beams, width]
    sources = torch.cat([state.finished_table[beams, :width], tables], dim=1)
    lengths = torch.cat([state.finished_length[beams], read[:, None].expand(-1, count)], dim=1)
    state.finished_table[beams, :width] = _take(sources, outcome.origin)
    state.finished_length[beams] = lengths.gather(1, outcome.origin)
    old = outcome.origin < count
    for kept, new in (
        (state.finished_token, outcome.last_token),
        (state.finished_log_prob, outcome.last_log_prob),
    ):
        kept[beams] = torch.where(old, kept[beams].gather(1, outcome.origin.clamp(max=count - 1)), new)
    state.finished_score[beams] = outcome.finished.score
    state.finished_occupied[beams] = outcome.finished.occupied
    state.slot_table[beams, :width] = _take(tables, outcome.parent)
    state.token[beams] = outcome.token
    state.log_prob[beams] = outcome.log_prob
    state.score[beams] = outcome.score


def _take(tables: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return tables.gather(1, index[:, :, None].expand(-1, -1, tables.shape[2]))
