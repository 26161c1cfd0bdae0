"""The device side of decoding: for every row its next token, its score, its slots, and its finished hypothesis."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from seamless_engine.decode.block_manager import BLOCK_SIZE, PROMPT_LENGTH, slots_of
from seamless_engine.decode.scheduler import Job
from seamless_engine.decode.search import NEVER, Finished, Outcome, Rules
from seamless_engine.models.text_decoder import StepInputs
from seamless_engine.request import DecodingParams


@dataclass(frozen=True)
class Member:
    """One search: a request, or one of the draws of a request that draws several sequences."""

    job: Job
    draw: int

    @property
    def params(self) -> DecodingParams:
        return self.job.params

    @property
    def rows(self) -> list[int]:
        beams = self.params.num_beams
        return self.job.rows[self.draw * beams : (self.draw + 1) * beams]

    @property
    def bans(self) -> bool:
        p = self.params
        static = p.bad_words_ids or p.suppress_tokens or p.no_repeat_ngram_size or p.block_unk
        return bool(static) or self.job.generated < p.min_new_tokens


@dataclass(frozen=True)
class Layout:
    """What stays the same from step to step while the same searches run."""

    key: tuple[tuple[int, bool, int], ...]  # serial, whether the prompt is still to be read, searches; of each request
    members: list[Member]
    model_rows: torch.Tensor  # int64 [m], the row of every line of the step
    offsets: torch.Tensor  # int64 [m], its position relative to the request's
    request_of: torch.Tensor  # int64 [m], index into the step's requests
    cu_rows: torch.Tensor  # int32 [requests + 1]
    choosing: torch.Tensor  # int64 [c], the lines whose logits are needed
    rows: torch.Tensor  # int64 [n, beams], the inert row where a member has fewer
    candidates: torch.Tensor  # int64 [n, beams], index into `choosing`, c where inert
    cross_table: torch.Tensor  # int32 [requests, width]
    cross_lengths: torch.Tensor  # int32 [requests]
    num_beams: torch.Tensor  # int64 [n]
    stop_at_full: torch.Tensor  # bool [n]

    def active(self, index: int) -> int:
        """Beams of a member that choose at this step: the first alone right after the prompt, then all."""
        member = self.members[index]
        return member.params.num_beams if member.job.generated else 1


@dataclass(frozen=True)
class Finding:
    """A finished hypothesis. tokens: generated ids, the last one included. slots: where the states of all but the last
    token lie. log_probs: of each token."""

    tokens: list[int]
    slots: torch.Tensor
    score: float
    log_probs: list[float]


class DecodeBuffers:
    def __init__(self, num_rows: int, max_length: int, num_slots: int, hidden_size: int, like: torch.Tensor) -> None:
        device = like.device
        rows = num_rows + 1  # the last one is inert
        self.inert = num_rows
        self.token = torch.zeros(rows, dtype=torch.int64, device=device)
        self.log_prob = torch.zeros(rows, device=device)  # of that token
        self.score = torch.zeros(rows, device=device)
        self.own_slots = torch.zeros(rows, max_length, dtype=torch.int32, device=device)
        self.slot_table = torch.zeros_like(self.own_slots)
        self.finished_score = torch.zeros(rows, device=device)
        self.finished_occupied = torch.zeros(rows, dtype=torch.bool, device=device)
        self.finished_length = torch.zeros(rows, dtype=torch.int64, device=device)
        self.finished_token = torch.zeros_like(self.finished_length)
        self.finished_log_prob = torch.zeros_like(self.finished_score)
        self.finished_table = torch.zeros_like(self.own_slots)
        self.token_pool = torch.zeros(num_slots, dtype=torch.int64, device=device)
        self.log_prob_pool = torch.zeros(num_slots, device=device)
        self.state_pool = torch.zeros(num_slots, hidden_size, dtype=like.dtype, device=device)
        self._layout: Layout | None = None

    def admit(self, job: Job, blocks: list[int]) -> None:
        """Give the blocks of an admitted request to its encodings and its rows."""
        device = self.token.device
        slots = torch.tensor(slots_of(blocks), dtype=torch.int32)
        source_blocks = -(-job.source_length // BLOCK_SIZE)
        job.cross_slots = slots[: job.source_length].to(device)
        own = slots[source_blocks * BLOCK_SIZE :].view(job.num_rows, -1)[:, : job.max_length].to(device)
        rows = torch.tensor(job.rows, device=device)
        self.own_slots[rows, : job.max_length] = own
        # The first row reads the prompt, for all.
        self.slot_table[rows, :PROMPT_LENGTH] = own[0, :PROMPT_LENGTH]
        self.token[rows] = job.language_id
        self.log_prob[rows] = 0.0
        self.score[rows] = 0.0
        self.finished_score[rows] = NEVER
        self.finished_occupied[rows] = False

    def layout(self, jobs: list[Job]) -> Layout:
        key = tuple((job.serial, job.position == 0, len(job.searching)) for job in jobs)
        if self._layout is None or self._layout.key != key:
            self._layout = self._make_layout(jobs, key)
        return self._layout

    def _make_layout(self, jobs: list[Job], key: tuple[tuple[int, bool, int], ...]) -> Layout:
        device = self.token.device
        members = [Member(job, draw) for job in jobs for draw in job.searching]
        beams = max(member.params.num_beams for member in members)
        model_rows: list[int] = []
        offsets: list[int] = []
        request_of: list[int] = []
        bounds = [0]
        choosing: list[int] = []
        candidates: list[list[int]] = []
        for i, job in enumerate(jobs):
            width = job.params.num_beams
            if job.position == 0:
                # The prompt is read at once, by the first row alone; all draws choose from its logits.
                model_rows += [job.rows[0]] * PROMPT_LENGTH
                offsets += range(PROMPT_LENGTH)
                candidates += [[len(choosing)] + [-1] * (beams - 1)] * len(job.searching)
                choosing.append(len(model_rows) - 1)
            else:
                for draw in job.searching:
                    model_rows += job.rows[draw * width : (draw + 1) * width]
                    candidates.append([len(choosing) + b if b < width else -1 for b in range(beams)])
                    choosing += range(len(model_rows) - width, len(model_rows))
                offsets += [0] * (width * len(job.searching))
            request_of += [i] * (len(model_rows) - bounds[-1])
            bounds.append(len(model_rows))
        inert = [self.inert]
        return Layout(
            key=key,
            members=members,
            model_rows=torch.tensor(model_rows, device=device),
            offsets=torch.tensor(offsets, device=device),
            request_of=torch.tensor(request_of, device=device),
            cu_rows=torch.tensor(bounds, dtype=torch.int32, device=device),
            choosing=torch.tensor(choosing, device=device),
            rows=torch.tensor([m.rows + inert * (beams - len(m.rows)) for m in members], device=device),
            candidates=torch.tensor(
                [[c if c >= 0 else len(choosing) for c in line] for line in candidates], device=device
            ),
            cross_table=torch.nn.utils.rnn.pad_sequence([job.cross_slots for job in jobs], batch_first=True),
            cross_lengths=torch.tensor([job.source_length for job in jobs], dtype=torch.int32, device=device),
            num_beams=torch.tensor([m.params.num_beams for m in members], device=device),
            stop_at_full=torch.tensor([m.params.early_stopping is True or m.params.num_beams == 1 for m in members]).to(
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
        width = max(job.position for job in jobs) + PROMPT_LENGTH
        tokens = torch.where(positions == 0, start_token, self.token[rows])
        slots = slots.long()
        self.token_pool[slots] = tokens
        self.log_prob_pool[slots] = self.log_prob[rows]
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

    def history(self, layout: Layout, index: int) -> torch.Tensor:
        """Ids that the active beams of a member have read, prompt included: int64 [beams, position]."""
        member = layout.members[index]
        rows = layout.rows[index, : layout.active(index)]
        return self.token_pool[self.slot_table[rows, : member.job.position].long()]

    def rules(self, layout: Layout, eos: int) -> Rules:
        """The requests have read this step's positions already."""
        device = self.token.device
        # Powers of Python numbers: the same bits as the reference, whatever the batch.
        norms: list[float] = []
        best: list[float] = []
        for member in layout.members:
            penalty = member.params.length_penalty
            norms.append(float(member.job.generated + 1) ** penalty)
            never = member.params.early_stopping == "never" and penalty > 0.0
            best.append(float(member.job.max_new_tokens) ** penalty if never else norms[-1])
        last = [member.job.position + 1 >= member.job.max_length for member in layout.members]
        return Rules(
            num_beams=layout.num_beams,
            eos=eos,
            stop_at_full=layout.stop_at_full,
            length_norm=torch.tensor(norms, device=device),
            best_norm=torch.tensor(best, device=device),
            last_step=torch.tensor(last, device=device),
        )

    def finished(self, layout: Layout) -> Finished:
        return Finished(self.finished_score[layout.rows], self.finished_occupied[layout.rows])

    def commit(self, layout: Layout, outcome: Outcome) -> None:
        """Reorder the rows as the search decided: tables move, keys and values stay where they are."""
        rows, beams = layout.rows, layout.rows.shape[1]
        positions = [member.job.position for member in layout.members]
        read = torch.tensor(positions, device=rows.device)[:, None]  # positions read
        width = max(positions)
        tables = self.slot_table[rows, :width]  # [n, beams, width]
        sources = torch.cat([self.finished_table[rows, :width], tables], dim=1)
        lengths = torch.cat([self.finished_length[rows], read.expand(-1, beams)], dim=1)
        self.finished_table[rows, :width] = _take(sources, outcome.origin)
        self.finished_length[rows] = lengths.gather(1, outcome.origin)
        old = outcome.origin < beams
        for kept, new in (
            (self.finished_token, outcome.last_token),
            (self.finished_log_prob, outcome.last_log_prob),
        ):
            kept[rows] = torch.where(old, kept[rows].gather(1, outcome.origin.clamp(max=beams - 1)), new)
        self.finished_score[rows] = outcome.finished.score
        self.finished_occupied[rows] = outcome.finished.occupied
        self.slot_table[rows, :width] = _take(tables, outcome.parent)
        self.token[rows] = outcome.token
        self.log_prob[rows] = outcome.log_prob
        self.score[rows] = outcome.score

    def findings(self, job: Job) -> list[Finding]:
        """What a request asked for, once its searches are over: the best of its beams, or one of each draw."""
        beams = job.params.num_beams
        chosen = range(0, job.num_rows, beams) if job.params.draws > 1 else range(job.params.num_return_sequences)
        rows = [job.rows[i] for i in chosen]
        return [self._finding(row) for row in rows if self.finished_occupied[row]]

    def _finding(self, row: int) -> Finding:
        slots = self.finished_table[row, : int(self.finished_length[row])].long()
        spoken = slots[PROMPT_LENGTH:]
        return Finding(
            tokens=self.token_pool[spoken].tolist() + [int(self.finished_token[row])],
            slots=slots,
            score=float(self.finished_score[row]),
            log_probs=self.log_prob_pool[spoken].tolist() + [float(self.finished_log_prob[row])],
        )


def _take(tables: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return tables.gather(1, index[:, :, None].expand(-1, -1, tables.shape[2]))
