"""Who owns which slots of the key/value pool. Pure Python on integers.

A block is 16 slots and the unit of allocation. A request reserves its worst case when it is admitted and keeps it
until it retires, so nothing is ever preempted, shared or copied. No prefix cache: the decoder prompt has two tokens.
"""

from __future__ import annotations

BLOCK_SIZE = 16
PROMPT_LENGTH = 2  # eos, target language


def blocks_needed(encoder_length: int, num_beams: int, max_new_tokens: int) -> int:
    """Worst case of a request: its encodings, and prompt and generation of every beam."""
    return _blocks(encoder_length) + num_beams * _blocks(PROMPT_LENGTH + max_new_tokens)


def slots_of(blocks: list[int]) -> list[int]:
    """The slots of blocks, in order."""
    return [block * BLOCK_SIZE + i for block in blocks for i in range(BLOCK_SIZE)]


def _blocks(slots: int) -> int:
    return -(-slots // BLOCK_SIZE)


class BlockManager:
    """Hands out blocks and rows, by owner."""

    def __init__(self, num_blocks: int, num_seqs: int) -> None:
        self.num_blocks = num_blocks
        self.num_seqs = num_seqs
        self._free_blocks = list(range(num_blocks - 1, -1, -1))
        self._free_rows = list(range(num_seqs - 1, -1, -1))
        self._blocks: dict[int, list[int]] = {}
        self._rows: dict[int, list[int]] = {}

    @property
    def free_blocks(self) -> int:
        return len(self._free_blocks)

    @property
    def free_seqs(self) -> int:
        return len(self._free_rows)

    def can_reserve(self, blocks: int, rows: int) -> bool:
        return blocks <= self.free_blocks and rows <= self.free_seqs

    def reserve(self, owner: int, blocks: int, rows: int) -> tuple[list[int], list[int]]:
        """Blocks and rows for an owner that holds none. The caller has asked `can_reserve`."""
        if owner in self._blocks:
            raise ValueError(f"owner {owner} already holds blocks")
        if not self.can_reserve(blocks, rows):
            raise ValueError(f"{blocks} blocks and {rows} rows asked, {self.free_blocks} and {self.free_seqs} are free")
        self._blocks[owner] = [self._free_blocks.pop() for _ in range(blocks)]
        self._rows[owner] = [self._free_rows.pop() for _ in range(rows)]
        return self._blocks[owner], self._rows[owner]

    def free(self, owner: int) -> None:
        """Return all that an owner holds. Raises KeyError if it holds nothing."""
        self._free_blocks.extend(reversed(self._blocks.pop(owner)))
        self._free_rows.extend(reversed(self._rows.pop(owner)))

    def check_integrity(self) -> None:
        """Every block and row is free or has exactly one owner. Raises AssertionError otherwise."""
        for kind, free, held, total in (
            ("block", self._free_blocks, self._blocks, self.num_blocks),
            ("row", self._free_rows, self._rows, self.num_seqs),
        ):
            ids = sorted([*free, *(index for owned in held.values() for index in owned)])
            if ids != list(range(total)):
                raise AssertionError(f"{kind}s: {len(ids)} accounted for, {len(set(ids))} distinct, of {total}")
        if self._blocks.keys() != self._rows.keys():
            raise AssertionError("an owner of blocks has no rows, or the reverse")
