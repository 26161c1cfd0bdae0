"""The compiled search on the device against the search in torch on the CPU."""

from __future__ import annotations

import random

import torch

from benchmarks.device.parts import Context
from seamless_engine.search.native_search import native_search
from seamless_engine.search.torch_search import TorchSearch
from support.searches import EOS, Searches, assert_same, clone, known, overwrite, random_params
from tolerance import SCORE_ATOL

_INPUTS = ("tokens", "positions", "slots", "beams", "lengths")


def compare(context: Context) -> str:
    """Random steps with every parameter; what a step has written is equal, scores by SCORE_ATOL."""
    steps = 0
    for seed in range(1 if context.quick else 6):
        for levels in (None, 3):  # with 3 the scores of many tokens are equal
            steps += _steps(torch.device(context.device), seed, levels, 8 if context.quick else 40)
    return f"{steps} steps"


def _steps(device: torch.device, seed: int, levels: int | None, most: int) -> int:
    rng, generator, steps = random.Random(seed), torch.Generator().manual_seed(seed), 0
    world = Searches(vocab=rng.choice([130, 1000]), bucket=rng.choice([1, 8]))
    search = native_search(clone(world.state, device))
    assert search is not None, f"csrc was not built for {device}"
    for _ in range(most):
        if not world.jobs or rng.random() < 0.5:
            beams = [rng.choice([1, 1, 2, 3, 4, 5, 8]) for _ in range(rng.randint(1, 5))]
            params = [random_params(rng, count, world.vocab, ties=levels is not None) for count in beams]
            world.admit(params, lambda: rng.choice([1, 2, 5, 14]))
            overwrite(search.state, world.state)
        batch = world.batch()
        moved = clone(batch, device)
        logits, before, twin = world.logits(batch, generator, levels), clone(world.state), TorchSearch(world.state)
        mine, its = search.prepare_inputs(moved, EOS), twin.prepare_inputs(batch, EOS)
        for name in _INPUTS:
            assert torch.equal(getattr(mine, name).cpu(), getattr(its, name)), f"step {steps}: {name}"
        search.update_state(moved, known(logits.to(device)))
        twin.update_state(batch, known(logits))
        found = clone(world.state)
        overwrite(found, search.state)
        assert_same(found, world.state, before, batch, SCORE_ATOL)
        overwrite(search.state, world.state)
        world.after_step(rng, late=0.6)
        steps += 1
    return steps
