"""What finished searches found, gathered on the device and read by one copy for all requests that ended together."""

from __future__ import annotations

import numpy as np
import torch

from seamless_engine.block_manager import PROMPT_LENGTH
from seamless_engine.job import FinishedHypothesis, Job
from seamless_engine.search.state import SearchState
from seamless_kernels.transfer import Download, upload


class FinishedSearches:
    """The hypotheses of requests whose searches are over, on their way to the host."""

    def __init__(self, state: SearchState, jobs: list[Job]) -> None:
        """Later steps may have the beams and slots of the requests: what they hold is read in stream order."""
        self.jobs = jobs
        self._beams = [_reported_beams(job) for job in jobs]
        (beams,) = upload(state.token.device, np.concatenate(self._beams))
        # No hypothesis has more positions than its request has read. Behind its own, a table may hold anything.
        table = state.finished_table[beams, : max(job.position for job in jobs)]
        lengths = state.finished_length[beams] * state.finished_occupied[beams]
        unread = torch.arange(table.shape[1], device=beams.device) >= lengths[:, None]
        slots = table.masked_fill(unread, 0).long()
        by_beam = state.finished_score, state.finished_token, state.finished_log_prob
        columns = (
            slots,
            state.token_pool[slots],
            state.log_prob_pool[slots],
            lengths[:, None],
            *(values[beams, None] for values in by_beam),
        )
        self._numbers = Download(torch.cat([_as_int32(column) for column in columns], dim=1))

    def wait(self) -> list[list[FinishedHypothesis]]:
        """The hypotheses of each request: its best beams, or the best of each search."""
        numbers = iter(self._numbers.wait())
        return [_hypotheses([next(numbers) for _ in beams]) for beams in self._beams]


def _hypotheses(numbers_of_beams: list[np.ndarray]) -> list[FinishedHypothesis]:
    """Of the numbers of each beam: what FinishedSearches gathers by position, then four. Length 0 is no hypothesis."""
    found = []
    for numbers in numbers_of_beams:
        length, _, token, _ = numbers[-4:].tolist()
        _, score, _, log_prob = numbers[-4:].view(np.float32).tolist()
        if not length:
            continue
        slots, tokens, log_probs = numbers[:-4].reshape(3, -1)[:, :length]
        found.append(
            FinishedHypothesis(
                tokens=[*tokens[PROMPT_LENGTH:].tolist(), token],
                slots=slots.astype(np.int64),
                score=score,
                log_probs=[*log_probs.view(np.float32)[PROMPT_LENGTH:].tolist(), log_prob],
            )
        )
    return found


def _reported_beams(job: Job) -> np.ndarray:
    """int64: the beams whose hypotheses a request returns."""
    if job.params.num_searches > 1:
        return np.array(job.beam_ids[:: job.params.num_beams])
    return np.array(job.beam_ids[: job.params.num_return_sequences])


def _as_int32(tensor: torch.Tensor) -> torch.Tensor:
    """Slots, token ids and lengths as int32; of floats, their bits."""
    return tensor.view(torch.int32) if tensor.is_floating_point() else tensor.int()
