"""Which request holds which slots of the key/value pool, and which beams of the tables. Policy on integers.

A block is 16 slots and the unit of allocation. A request reserves its worst case when it is admitted and keeps it
until it retires, so nothing is ever preempted, shared or copied. No prefix cache: the decoder prompt has two tokens.
"""

from __future__ import annotations

import numpy as np

BLOCK_SIZE = 16
PROMPT_LENGTH = 2  # eos, target language


def blocks_needed(encoder_length: int, num_beams: int, max_new_tokens: int) -> int:
    """Worst case of a request: its encoder states, and prompt and generation of every beam."""
    return _blocks(encoder_length) + num_beams * _blocks(PROMPT_LENGTH + max_new_tokens)


def slots_of(blocks: list[int]) -> np.ndarray:
    """int32: the slots of blocks, in order."""
    return (np.array(blocks, dtype=np.int32)[:, None] * BLOCK_SIZE + np.arange(BLOCK_SIZE, dtype=np.int32)).ravel()


def _blocks(slots: int) -> int:
    return -(-slots // BLOCK_SIZE)


class BlockManager:
    """Hands out blocks, and sequences by their beam ids, to owners.

    blocks_of, beams_of: what each owner holds. free_block_ids, free_beam_ids: the rest, the next one last.
    """

    def __init__(self, num_blocks: int, num_seqs: int) -> None:
        self.num_blocks = num_blocks
        self.num_seqs = num_seqs
        self.free_block_ids = list(range(num_blocks - 1, -1, -1))
        self.free_beam_ids = list(range(num_seqs - 1, -1, -1))
        self.blocks_of: dict[int, list[int]] = {}
        self.beams_of: dict[int, list[int]] = {}

    @property
    def free_blocks(self) -> int:
        return len(self.free_block_ids)

    @property
    def free_seqs(self) -> int:
        return len(self.free_beam_ids)

    def can_reserve(self, blocks: int, seqs: int) -> bool:
        return blocks <= self.free_blocks and seqs <= self.free_seqs

    def reserve(self, owner: int, blocks: int, seqs: int) -> tuple[list[int], list[int]]:
        """Blocks and beam ids for an owner that holds none. The caller has asked `can_reserve`."""
        if owner in self.blocks_of:
            raise ValueError(f"owner {owner} already holds blocks")
        if not self.can_reserve(blocks, seqs):
            raise ValueError(
                f"{blocks} blocks and {seqs} sequences asked, {self.free_blocks} and {self.free_seqs} are free"
            )
        self.blocks_of[owner] = [self.free_block_ids.pop() for _ in range(blocks)]
        self.beams_of[owner] = [self.free_beam_ids.pop() for _ in range(seqs)]
        return self.blocks_of[owner], self.beams_of[owner]

    def free(self, owner: int) -> None:
        """Return all that an owner holds. Raises KeyError if it holds nothing."""
        self.free_block_ids.extend(reversed(self.blocks_of.pop(owner)))
        self.free_beam_ids.extend(reversed(self.beams_of.pop(owner)))

    def check_integrity(self) -> None:
        """Every block and beam is free or has exactly one owner. Raises AssertionError otherwise."""
        for kind, free, held, total in (
            ("block", self.free_block_ids, self.blocks_of, self.num_blocks),
            ("beam", self.free_beam_ids, self.beams_of, self.num_seqs),
        ):
            ids = sorted([*free, *(index for owned in held.values() for index in owned)])
            if ids != list(range(total)):
                raise AssertionError(f"{kind}s: {len(ids)} accounted for, {len(set(ids))} distinct, of {total}")
        if self.blocks_of.keys() != self.beams_of.keys():
            raise AssertionError("an owner of blocks has no beams, or the reverse")
