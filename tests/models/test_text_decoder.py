"""Decoder steps over scattered slots equal the reference's full pass over the same tokens."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seamless_engine.models.text_decoder import KVPool, NextTokens, StepInputs
from support.models import parts
from support.on_cpu import bounds, normal
from support.oracle import load
from tolerance import assert_model_close


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_best_does_not_depend_on_whether_the_logits_exist(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setenv("SEAMLESS_BACKEND", backend)
    hidden, head = normal(7, 64, seed=0), normal(1001, 64, seed=1)
    banned = torch.tensor([[3, 17, -1]]).expand(7, -1)
    without, after = NextTokens(hidden, head), NextTokens(hidden, head)
    assert after.logits.shape == (7, 1001)
    for count in (2, 10):
        for mine, other in zip(without.best(count, banned), after.best(count, banned), strict=True):
            assert torch.equal(mine, other)
    assert "logits" not in vars(without)


@pytest.mark.parametrize("seed", range(3))
def test_step_equals_the_full_pass_of_the_reference(checkpoint: Callable[[int], Path], seed: int) -> None:
    folder = checkpoint(seed)
    runner = parts(folder)
    decoder, config = runner.decoder, runner.config
    reference = load(folder).model
    sources = [normal(length, config.hidden_size, seed=length) for length in (1, 7, 23)]
    sequences = [[3, 205, 17, 40, 41, 9], [3, 206, 7, 12, 12, 12], [3, 207, 150, 4, 11, 8]]
    slots = random.Random(seed).sample(range(200), 200)
    shape = (config.decoder_layers, 200, *runner.pool.k.shape[2:])
    pool = KVPool(torch.full(shape, torch.nan), torch.full(shape, torch.nan))
    cross = torch.full((3, 30), 2**30, dtype=torch.int32)
    own = torch.full((3, 8), 2**30, dtype=torch.int32)
    with torch.inference_mode():
        for i, source in enumerate(sources):
            mine = torch.tensor([slots.pop() for _ in range(len(source))])
            decoder.store_encoder_states(source, mine, pool)
            cross[i, : len(source)] = mine
        steps = []
        for position in range(6):
            own[:, position] = torch.tensor([slots.pop() for _ in range(3)])
            inputs = StepInputs(
                tokens=torch.tensor([sequence[position] for sequence in sequences]),
                positions=torch.full((3,), position),
                slots=own[:, position].long(),
                slot_table=own,
                beams=torch.arange(3, dtype=torch.int32),
                lengths=torch.full((3,), position + 1, dtype=torch.int32),
                cross_table=cross,
                requests=torch.arange(len(sources), dtype=torch.int32),
                cross_lengths=torch.tensor([len(source) for source in sources], dtype=torch.int32),
                cu_queries=bounds([1, 1, 1]),
            )
            steps.append(decoder.step(inputs, pool))
        states = torch.stack(steps, dim=1)
        for mine, source, sequence in zip(states, sources, sequences, strict=True):
            full = reference.text_decoder(input_ids=torch.tensor([sequence]), encoder_hidden_states=source[None])
            hidden = full.last_hidden_state[0]
            assert_model_close(mine, hidden, torch.float32)
            assert_model_close(decoder.next_tokens(mine).logits, reference.lm_head(hidden), torch.float32)
