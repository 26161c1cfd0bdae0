"""What a decode step does around the model: begin (what every line reads) and commit (what every search chose).

Static in shape and free of host reads. Whoever is over changes nothing: its lines and searches become the dummy ones,
so the host may learn late that a search has ended.
"""

from __future__ import annotations

import torch

from seamless_engine.block_manager import PROMPT_LENGTH
from seamless_engine.models.text_decoder import NextTokens, StepInputs
from seamless_engine.search.beam_step import Finished, Outcome, Rules, advance
from seamless_engine.search.candidates import choose_candidates, rows_of
from seamless_engine.search.state import IntParam, SearchState, Status
from seamless_engine.search.step_batch import StepBatch


class TorchSearch:
    """The search by torch, with the interface of the compiled one (native_search.py).

    committing: the step that `begin` began is changing what it has read, or has: it could not be taken again.
    """

    def __init__(self, state: SearchState) -> None:
        self.state = state
        self.committing = False

    def begin(self, batch: StepBatch, start_token: int) -> StepInputs:
        """What the model reads at this step; its slots are entered into the table, its tokens into the pool."""
        state, self.committing = self.state, False
        search = state.search_of[batch.line_row].long()
        live = state.status[search] == int(Status.SEARCHING)
        rows = torch.where(live, batch.line_row, state.dummy_beam)
        positions = torch.where(live, state.position[search] + batch.line_offset, 0)
        slots = state.slot_mapping[rows, positions]
        state.slot_table[rows, positions] = slots
        tokens = torch.where(positions == 0, start_token, state.token[rows])
        slots = slots.long()
        state.token_pool[slots] = tokens
        state.log_prob_pool[slots] = state.log_prob[rows]
        self._inputs = StepInputs(
            tokens=tokens,
            positions=positions.long(),
            slots=slots,
            slot_table=state.slot_table[:, : batch.graph_key.width],
            rows=rows,
            lengths=positions + 1,
            cross_table=state.cross_table,
            requests=batch.request_id,
            cross_lengths=state.cross_length[batch.request_id],
            cu_rows=batch.cu_lines,
        )
        return self._inputs

    def update_state(self, batch: StepBatch, expected: NextTokens) -> None:
        """The search: candidates of every beam, next beams and finished hypotheses."""
        state = self.state
        candidates = choose_candidates(state, batch, self._inputs, expected)
        ids = batch.search_id.long()
        live = state.status[ids] == int(Status.SEARCHING)
        ids = torch.where(live, ids, state.dummy_beam)
        rows = rows_of(state, batch, ids)
        read = self._inputs.lengths[batch.search_line]  # int32 [n], positions read
        finished = Finished(state.finished_score[rows], state.finished_occupied[rows])
        outcome = advance(state.score[rows], candidates, finished, _rules(state, ids, read))
        self.committing = True
        _move(state, rows, batch.graph_key.width, read, outcome)
        state.position[ids] = read
        over = torch.where(outcome.over, int(Status.OVER), int(Status.SEARCHING))
        state.status[ids] = torch.where(outcome.broken, int(Status.BROKEN), over).int()
        state.status[state.dummy_beam] = int(Status.OVER)


def _rules(state: SearchState, ids: torch.Tensor, read: torch.Tensor) -> Rules:
    whole, norm = state.whole[ids], state.norm[ids]
    generated = read.long() - PROMPT_LENGTH + 1  # with the token to be chosen
    limit = whole[:, IntParam.MAX_LENGTH]
    now = norm.gather(1, generated.clamp(min=0)[:, None])[:, 0]
    longest = norm.gather(1, limit[:, None] - PROMPT_LENGTH)[:, 0]
    return Rules(
        num_beams=whole[:, IntParam.NUM_BEAMS],
        eos=state.eos,
        stop_at_full=whole[:, IntParam.STOP] == 1,
        length_norm=now,
        best_norm=torch.where(whole[:, IntParam.STOP] == 2, longest, now),
        last_step=read + 1 >= limit,
    )


def _move(state: SearchState, rows: torch.Tensor, width: int, read: torch.Tensor, outcome: Outcome) -> None:
    """Reorder the rows as the search decided: tables move, keys and values stay where they are."""
    beams = rows.shape[1]
    tables = state.slot_table[rows, :width]  # [n, beams, width]
    sources = torch.cat([state.finished_table[rows, :width], tables], dim=1)
    lengths = torch.cat([state.finished_length[rows], read[:, None].expand(-1, beams)], dim=1)
    state.finished_table[rows, :width] = _take(sources, outcome.origin)
    state.finished_length[rows] = lengths.gather(1, outcome.origin)
    old = outcome.origin < beams
    for kept, new in (
        (state.finished_token, outcome.last_token),
        (state.finished_log_prob, outcome.last_log_prob),
    ):
        kept[rows] = torch.where(old, kept[rows].gather(1, outcome.origin.clamp(max=beams - 1)), new)
    state.finished_score[rows] = outcome.finished.score
    state.finished_occupied[rows] = outcome.finished.occupied
    state.slot_table[rows, :width] = _take(tables, outcome.parent)
    state.token[rows] = outcome.token
    state.log_prob[rows] = outcome.log_prob
    state.score[rows] = outcome.score


def _take(tables: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return tables.gather(1, index[:, :, None].expand(-1, -1, tables.shape[2]))
