"""The device side of decoding: for every row its next token, its score, its slots, and its finished hypothesis."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from seamless_engine.decode.block_manager import BLOCK_SIZE, PROMPT_LENGTH, slots_of
from seamless_engine.decode.scheduler import Job
from seamless_engine.decode.search import NEVER, Finished, Outcome, Rules
from seamless_engine.models.text_decoder import StepInputs


@dataclass(frozen=True)
class Layout:
    """What stays the same from step to step while the same requests decode."""

    key: tuple[tuple[int, bool], ...]  # serial and whether the prompt is still to be read, of each request
    model_rows: torch.Tensor  # int64 [m], the row of every line of the step
    offsets: torch.Tensor  # int64 [m], its position relative to the request's
    request_of: torch.Tensor  # int64 [m]
    cu_rows: torch.Tensor  # int32 [n + 1]
    choosing: torch.Tensor  # int64 [c], the lines whose logits are needed
    rows: torch.Tensor  # int64 [n, beams], the inert row where a request has fewer
    candidates: torch.Tensor  # int64 [n, beams], index into `choosing`, c where inert
    cross_table: torch.Tensor  # int32 [n, width]
    cross_lengths: torch.Tensor  # int32 [n]
    num_beams: torch.Tensor  # int64 [n]
    stop_at_full: torch.Tensor  # bool [n]


@dataclass(frozen=True)
class Hypothesis:
    """tokens: generated ids, the last one included. slots: where the states of all but the last token lie."""

    tokens: list[int]
    slots: torch.Tensor
    score: float


class DecodeBuffers:
    def __init__(self, num_rows: int, max_length: int, num_slots: int, hidden_size: int, like: torch.Tensor) -> None:
        device = like.device
        rows = num_rows + 1  # the last one is inert
        self.inert = num_rows
        self.token = torch.zeros(rows, dtype=torch.int64, device=device)
        self.score = torch.zeros(rows, device=device)
        self.own_slots = torch.zeros(rows, max_length, dtype=torch.int32, device=device)
        self.slot_table = torch.zeros_like(self.own_slots)
        self.finished_score = torch.zeros(rows, device=device)
        self.finished_occupied = torch.zeros(rows, dtype=torch.bool, device=device)
        self.finished_length = torch.zeros(rows, dtype=torch.int64, device=device)
        self.finished_token = torch.zeros_like(self.finished_length)
        self.finished_table = torch.zeros_like(self.own_slots)
        self.token_pool = torch.zeros(num_slots, dtype=torch.int64, device=device)
        self.state_pool = torch.zeros(num_slots, hidden_size, dtype=like.dtype, device=device)
        self._layout: Layout | None = None

    def admit(self, job: Job, blocks: list[int]) -> None:
        """Give the blocks of an admitted request to its encodings and its beams."""
        device = self.token.device
        slots = torch.tensor(slots_of(blocks), dtype=torch.int32)
        source_blocks = -(-job.source_length // BLOCK_SIZE)
        job.cross_slots = slots[: job.source_length].to(device)
        own = slots[source_blocks * BLOCK_SIZE :].view(job.num_beams, -1)[:, : job.max_length]
        rows = torch.tensor(job.rows, device=device)
        self.own_slots[rows, : job.max_length] = own.to(device)
        self.token[rows] = job.language_id
        self.score[rows] = 0.0
        self.finished_score[rows] = NEVER
        self.finished_occupied[rows] = False

    def layout(self, jobs: list[Job]) -> Layout:
        key = tuple((job.serial, job.position == 0) for job in jobs)
        if self._layout is None or self._layout.key != key:
            self._layout = self._make_layout(jobs, key)
        return self._layout

    def _make_layout(self, jobs: list[Job], key: tuple[tuple[int, bool], ...]) -> Layout:
        device = self.token.device
        beams = max(job.num_beams for job in jobs)
        model_rows: list[int] = []
        offsets: list[int] = []
        request_of: list[int] = []
        bounds = [0]
        choosing: list[int] = []
        candidates: list[list[int]] = []
        for i, job in enumerate(jobs):
            if job.position == 0:
                # The prompt is read at once, by the first beam alone; the others start at the first choice.
                model_rows += [job.rows[0]] * PROMPT_LENGTH
                offsets += range(PROMPT_LENGTH)
                active = 1
            else:
                model_rows += job.rows
                offsets += [0] * job.num_beams
                active = job.num_beams
            request_of += [i] * (len(model_rows) - bounds[-1])
            bounds.append(len(model_rows))
            candidates.append([len(choosing) + b if b < active else -1 for b in range(beams)])
            choosing += range(bounds[-1] - active, bounds[-1])
        inert = [self.inert]
        return Layout(
            key=key,
            model_rows=torch.tensor(model_rows, device=device),
            offsets=torch.tensor(offsets, device=device),
            request_of=torch.tensor(request_of, device=device),
            cu_rows=torch.tensor(bounds, dtype=torch.int32, device=device),
            choosing=torch.tensor(choosing, device=device),
            rows=torch.tensor([job.rows + inert * (beams - job.num_beams) for job in jobs], device=device),
            candidates=torch.tensor(
                [[c if c >= 0 else len(choosing) for c in line] for line in candidates], device=device
            ),
            cross_table=torch.nn.utils.rnn.pad_sequence([job.cross_slots for job in jobs], batch_first=True),
            cross_lengths=torch.tensor([job.source_length for job in jobs], dtype=torch.int32, device=device),
            num_beams=torch.tensor([job.num_beams for job in jobs], device=device),
            stop_at_full=torch.tensor([job.params.early_stopping is True or job.num_beams == 1 for job in jobs]).to(
                device
            ),
        )

    def inputs(self, layout: Layout, jobs: list[Job], start_token: int) -> StepInputs:
        """What the model reads at this step; this step's slots are entered into the table."""
        at = torch.tensor([job.position for job in jobs], device=self.token.device)
        positions = at[layout.request_of] + layout.offsets
        rows = layout.model_rows
        slots = self.own_slots[rows, positions]
        self.slot_table[rows, positions] = slots
        width = int(max(job.position for job in jobs)) + PROMPT_LENGTH
        tokens = torch.where(positions == 0, start_token, self.token[rows])
        slots = slots.long()
        self.token_pool[slots] = tokens
        return StepInputs(
            tokens=tokens,
            positions=positions,
            slots=slots,
            slot_table=self.slot_table[rows, :width],
            lengths=(positions + 1).int(),
            cross_table=layout.cross_table,
            cross_lengths=layout.cross_lengths,
            cu_rows=layout.cu_rows,
        )

    def rules(self, layout: Layout, jobs: list[Job], eos: int) -> Rules:
        """`jobs` have read this step's positions already."""
        device = self.token.device
        # Powers of Python numbers: the same bits as the reference, whatever the batch.
        norms: list[float] = []
        best: list[float] = []
        for job in jobs:
            penalty, generated = job.params.length_penalty, job.position + 1 - PROMPT_LENGTH
            norms.append(float(generated) ** penalty)
            never = job.params.early_stopping == "never" and penalty > 0.0
            best.append(float(job.max_new_tokens) ** penalty if never else norms[-1])
        return Rules(
            num_beams=layout.num_beams,
            eos=eos,
            stop_at_full=layout.stop_at_full,
            length_norm=torch.tensor(norms, device=device),
            best_norm=torch.tensor(best, device=device),
            last_step=torch.tensor([job.position + 1 >= job.max_length for job in jobs], device=device),
        )

    def finished(self, layout: Layout) -> Finished:
        return Finished(self.finished_score[layout.rows], self.finished_occupied[layout.rows])

    def commit(self, layout: Layout, outcome: Outcome, jobs: list[Job]) -> None:
        """Reorder the rows as the search decided: tables move, keys and values stay where they are."""
        rows, beams = layout.rows, layout.rows.shape[1]
        read = torch.tensor([job.position for job in jobs], device=rows.device)[:, None]  # positions read
        width = max(job.position for job in jobs)
        tables = self.slot_table[rows, :width]  # [n, beams, width]
        sources = torch.cat([self.finished_table[rows, :width], tables], dim=1)
        lengths = torch.cat([self.finished_length[rows], read.expand(-1, beams)], dim=1)
        self.finished_table[rows, :width] = _take(sources, outcome.origin)
        self.finished_length[rows] = lengths.gather(1, outcome.origin)
        kept = self.finished_token[rows].gather(1, outcome.origin.clamp(max=beams - 1))
        self.finished_token[rows] = torch.where(outcome.origin < beams, kept, outcome.last_token)
        self.finished_score[rows] = outcome.finished.score
        self.finished_occupied[rows] = outcome.finished.occupied
        self.slot_table[rows, :width] = _take(tables, outcome.parent)
        self.token[rows] = outcome.token
        self.score[rows] = outcome.score

    def best(self, job: Job) -> Hypothesis:
        """The best finished hypothesis of a request whose search is over."""
        row = job.rows[0]
        slots = self.finished_table[row, : int(self.finished_length[row])].long()
        tokens = self.token_pool[slots[PROMPT_LENGTH:]].tolist() + [int(self.finished_token[row])]
        return Hypothesis(tokens, slots, float(self.finished_score[row]))


def _take(tables: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return tables.gather(1, index[:, :, None].expand(-1, -1, tables.shape[2]))
