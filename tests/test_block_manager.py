"""Blocks and beams are conserved in any order of calls, and `blocks_needed` counts what a request takes."""

from __future__ import annotations

import random

import pytest

from seamless_engine.block_manager import BLOCK_SIZE, BlockManager, blocks_needed, slots_of


def test_blocks_needed_counts_source_and_every_beam() -> None:
    assert blocks_needed(1, 1, 1) == 2
    assert blocks_needed(16, 1, 14) == 2
    assert blocks_needed(17, 1, 15) == 4
    assert blocks_needed(63, 5, 256) == 4 + 5 * 17


def test_slots_of_blocks_are_contiguous() -> None:
    assert slots_of([2, 0]).tolist() == [*range(32, 48), *range(16)]


def test_reserve_and_free_conserve_blocks_and_beams() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        manager = BlockManager(rng.randint(1, 40), rng.randint(1, 12))
        held: dict[int, set[int]] = {}
        for owner in range(60):
            if held and rng.random() < 0.5:
                leaving = rng.choice(sorted(held))
                manager.free(leaving)
                del held[leaving]
            blocks, seqs = rng.randint(1, 10), rng.randint(1, 5)
            if manager.can_reserve(blocks, seqs):
                given, beam_ids = manager.reserve(owner, blocks, seqs)
                assert len(given) == blocks and len(beam_ids) == seqs
                slots = set(slots_of(given).tolist())
                assert len(slots) == blocks * BLOCK_SIZE
                assert not any(slots & other for other in held.values())
                held[owner] = slots
            else:
                with pytest.raises(ValueError, match="are free"):
                    manager.reserve(owner, blocks, seqs)
            manager.check_integrity()
        for owner in list(held):
            manager.free(owner)
        assert manager.free_blocks == manager.num_blocks and manager.free_seqs == manager.num_seqs


def test_reserve_and_free_refuse_an_owner_twice() -> None:
    manager = BlockManager(4, 4)
    manager.reserve(7, 1, 1)
    with pytest.raises(ValueError, match="already holds"):
        manager.reserve(7, 1, 1)
    manager.free(7)
    with pytest.raises(KeyError):
        manager.free(7)
    manager.check_integrity()


@pytest.mark.parametrize("damage", ["leak", "double"])
def test_check_integrity_finds_damage(damage: str) -> None:
    manager = BlockManager(4, 4)
    blocks, _ = manager.reserve(1, 2, 1)
    if damage == "leak":
        blocks.pop()
    else:
        manager.free_block_ids.append(blocks[0])
    with pytest.raises(AssertionError, match="blocks"):
        manager.check_integrity()
