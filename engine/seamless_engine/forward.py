"""One input through the encoder alone, or through teacher forcing: a decoder that is made to read given tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from seamless_engine.block_manager import PROMPT_LENGTH, blocks_needed, slots_of
from seamless_engine.errors import CapacityError
from seamless_engine.model_inputs import Features, Tokens
from seamless_engine.model_runner import ModelRunner
from seamless_engine.models.layers import cumulative
from seamless_engine.models.text_decoder import StepInputs

_OWNER = -1  # of the borrowed slots; requests count from 0


@torch.inference_mode()
def forced_logits(runner: ModelRunner, source: Features | Tokens, tokens: Sequence[int]) -> torch.Tensor:
    """float32 [len(tokens), vocab]: row t is what the model expects after tokens[: t + 1].

    All positions are rows of one decode step, whose slots are borrowed from the pool meanwhile.

    Raises CapacityError if they do not fit the pool, or if there are more tokens than a request may have.
    """
    device, pad = runner.device, runner.config.pad_token_id
    limit = len(runner.decoder.positions.table) - runner.decoder.positions.first
    if len(tokens) > limit:
        raise CapacityError(f"{len(tokens)} decoder tokens, more than {limit}: raise EngineConfig.max_new_tokens")
    encodings = encode(runner, source)
    count = blocks_needed(len(encodings), 1, len(tokens) - PROMPT_LENGTH)
    if not runner.blocks.can_reserve(count, 0):
        raise CapacityError(f"{count} blocks of 16 slots are needed, {runner.blocks.free_blocks} are free")
    blocks, _ = runner.blocks.reserve(_OWNER, count, 0)
    try:
        slots = torch.tensor(slots_of(blocks), dtype=torch.int64, device=device)
        own, cross = slots[: len(tokens)], slots[-len(encodings) :]
        runner.decoder.store_encoder_states(encodings, cross, runner.pool)
        ids = torch.tensor(tokens, device=device)
        rows = torch.arange(len(tokens), device=device)
        inputs = StepInputs(
            tokens=ids,
            positions=(ids != pad).cumsum(0) - 1,  # a pad takes no position from later tokens
            slots=own,
            slot_table=own.int()[None],
            beams=torch.zeros_like(rows, dtype=torch.int32),
            lengths=(rows + 1).int(),
            cross_table=cross.int()[None],
            requests=torch.zeros(1, dtype=torch.int32, device=device),
            cross_lengths=torch.tensor([len(encodings)], dtype=torch.int32, device=device),
            cu_queries=torch.tensor([0, len(tokens)], dtype=torch.int32, device=device),
        )
        return runner.decoder.next_tokens(runner.decoder.step(inputs, runner.pool)).logits
    finally:
        runner.blocks.free(_OWNER)


@torch.inference_mode()
def encode(runner: ModelRunner, source: Features | Tokens) -> torch.Tensor:
    """Encodings [length, dim] of one input."""
    if isinstance(source, Features):
        assert runner.speech_encoder is not None
        rows = source.frames.to(runner.device)
        valid = torch.tensor([source.valid], dtype=torch.int32, device=runner.device)
        return runner.speech_encoder(rows, cumulative(torch.tensor([len(rows)], device=runner.device)), valid)[0]
    assert runner.text_encoder is not None
    ids = torch.tensor(source.ids, device=runner.device)
    return runner.text_encoder(ids, cumulative(torch.tensor([len(ids)], device=runner.device)))
