"""What a decode step does around the model: begin (what every line reads) and commit (what every search chose).

Static in shape and free of host reads. Whoever is over changes nothing: its lines and searches become the inert ones,
so the host may learn late that a search has ended.
"""

from __future__ import annotations

import torch

from seamless_engine.decode.block_manager import PROMPT_LENGTH
from seamless_engine.decode.buffers import DecodeBuffers, Status, Whole
from seamless_engine.decode.candidates import choose_candidates, rows_of
from seamless_engine.decode.layout import StepLayout
from seamless_engine.decode.search import Finished, Outcome, Rules, advance
from seamless_engine.models.text_decoder import NextTokens, StepInputs


class TorchSearch:
    """The search by torch, with the interface of the compiled one (native_search.py).

    committing: the step that `begin` began is changing what it has read, or has: it could not be taken again.
    """

    def __init__(self, buffers: DecodeBuffers) -> None:
        self.buffers = buffers
        self.committing = False

    def begin(self, layout: StepLayout, start_token: int) -> StepInputs:
        """What the model reads at this step; its slots are entered into the table, its tokens into the pool."""
        buffers, self.committing = self.buffers, False
        search = buffers.search_of[layout.line_row].long()
        live = buffers.status[search] == int(Status.SEARCHING)
        rows = torch.where(live, layout.line_row, buffers.inert)
        positions = torch.where(live, buffers.position[search] + layout.line_offset, 0)
        slots = buffers.own_slots[rows, positions]
        buffers.slot_table[rows, positions] = slots
        tokens = torch.where(positions == 0, start_token, buffers.token[rows])
        slots = slots.long()
        buffers.token_pool[slots] = tokens
        buffers.log_prob_pool[slots] = buffers.log_prob[rows]
        self._inputs = StepInputs(
            tokens=tokens,
            positions=positions.long(),
            slots=slots,
            slot_table=buffers.slot_table[:, : layout.traits.width],
            rows=rows,
            lengths=positions + 1,
            cross_table=buffers.cross_table,
            requests=layout.request_id,
            cross_lengths=buffers.cross_length[layout.request_id],
            cu_rows=layout.cu_lines,
        )
        return self._inputs

    def choose_and_commit(self, layout: StepLayout, expected: NextTokens) -> None:
        """The search: candidates of every beam, next beams and finished hypotheses."""
        buffers = self.buffers
        candidates = choose_candidates(buffers, layout, self._inputs, expected)
        ids = layout.search_id.long()
        live = buffers.status[ids] == int(Status.SEARCHING)
        ids = torch.where(live, ids, buffers.inert)
        rows = rows_of(buffers, layout, ids)
        read = self._inputs.lengths[layout.search_line]  # int32 [n], positions read
        finished = Finished(buffers.finished_score[rows], buffers.finished_occupied[rows])
        outcome = advance(buffers.score[rows], candidates, finished, _rules(buffers, ids, read))
        self.committing = True
        _move(buffers, rows, layout.traits.width, read, outcome)
        buffers.position[ids] = read
        over = torch.where(outcome.over, int(Status.OVER), int(Status.SEARCHING))
        buffers.status[ids] = torch.where(outcome.broken, int(Status.BROKEN), over).int()
        buffers.status[buffers.inert] = int(Status.OVER)


def _rules(buffers: DecodeBuffers, ids: torch.Tensor, read: torch.Tensor) -> Rules:
    whole, norm = buffers.whole[ids], buffers.norm[ids]
    generated = read.long() - PROMPT_LENGTH + 1  # with the token to be chosen
    limit = whole[:, Whole.MAX_LENGTH]
    now = norm.gather(1, generated.clamp(min=0)[:, None])[:, 0]
    longest = norm.gather(1, limit[:, None] - PROMPT_LENGTH)[:, 0]
    return Rules(
        num_beams=whole[:, Whole.NUM_BEAMS],
        eos=buffers.eos,
        stop_at_full=whole[:, Whole.STOP] == 1,
        length_norm=now,
        best_norm=torch.where(whole[:, Whole.STOP] == 2, longest, now),
        last_step=read + 1 >= limit,
    )


def _move(buffers: DecodeBuffers, rows: torch.Tensor, width: int, read: torch.Tensor, outcome: Outcome) -> None:
    """Reorder the rows as the search decided: tables move, keys and values stay where they are."""
    beams = rows.shape[1]
    tables = buffers.slot_table[rows, :width]  # [n, beams, width]
    sources = torch.cat([buffers.finished_table[rows, :width], tables], dim=1)
    lengths = torch.cat([buffers.finished_length[rows], read[:, None].expand(-1, beams)], dim=1)
    buffers.finished_table[rows, :width] = _take(sources, outcome.origin)
    buffers.finished_length[rows] = lengths.gather(1, outcome.origin)
    old = outcome.origin < beams
    for kept, new in (
        (buffers.finished_token, outcome.last_token),
        (buffers.finished_log_prob, outcome.last_log_prob),
    ):
        kept[rows] = torch.where(old, kept[rows].gather(1, outcome.origin.clamp(max=beams - 1)), new)
    buffers.finished_score[rows] = outcome.finished.score
    buffers.finished_occupied[rows] = outcome.finished.occupied
    buffers.slot_table[rows, :width] = _take(tables, outcome.parent)
    buffers.token[rows] = outcome.token
    buffers.log_prob[rows] = outcome.log_prob
    buffers.score[rows] = outcome.score


def _take(tables: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return tables.gather(1, index[:, :, None].expand(-1, -1, tables.shape[2]))
