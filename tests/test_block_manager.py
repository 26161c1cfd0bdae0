"""Blocks and rows are conserved whatever is asked of them, and admission counts what allocation takes."""

from __future__ import annotations

import random

import pytest

from seamless_engine.block_manager import BLOCK_SIZE, BlockManager, blocks_needed, slots_of


def test_blocks_needed_counts_source_and_every_beam() -> None:
    assert blocks_needed(1, 1, 1) == 2
    assert blocks_needed(16, 1, 14) == 2
    assert blocks_needed(17, 1, 15) == 4
    assert blocks_needed(63, 5, 256) == 4 + 5 * 17


def test_slots_of_a_block_are_contiguous() -> None:
    assert slots_of([2, 0]) == [*range(32, 48), *range(16)]


def test_random_schedules_conserve_blocks_and_rows() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        manager = BlockManager(rng.randint(1, 40), rng.randint(1, 12))
        held: dict[int, set[int]] = {}
        for owner in range(60):
            if held and rng.random() < 0.5:
                leaving = rng.choice(sorted(held))
                manager.free(leaving)
                del held[leaving]
            blocks, rows = rng.randint(1, 10), rng.randint(1, 5)
            if manager.can_reserve(blocks, rows):
                given, given_rows = manager.reserve(owner, blocks, rows)
                assert len(given) == blocks and len(given_rows) == rows
                slots = set(slots_of(given))
                assert len(slots) == blocks * BLOCK_SIZE
                assert not any(slots & other for other in held.values())
                held[owner] = slots
            else:
                with pytest.raises(ValueError, match="are free"):
                    manager.reserve(owner, blocks, rows)
            manager.check_integrity()
        for owner in list(held):
            manager.free(owner)
        assert manager.free_blocks == manager.num_blocks and manager.free_seqs == manager.num_seqs


def test_an_owner_reserves_once_and_frees_once() -> None:
    manager = BlockManager(4, 4)
    manager.reserve(7, 1, 1)
    with pytest.raises(ValueError, match="already holds"):
        manager.reserve(7, 1, 1)
    manager.free(7)
    with pytest.raises(KeyError):
        manager.free(7)
    manager.check_integrity()


@pytest.mark.parametrize("damage", ["leak", "double"])
def test_integrity_check_sees_damage(damage: str) -> None:
    manager = BlockManager(4, 4)
    blocks, _ = manager.reserve(1, 2, 1)
    if damage == "leak":
        blocks.pop()
    else:
        manager._free_blocks.append(blocks[0])
    with pytest.raises(AssertionError, match="blocks"):
        manager.check_integrity()
