"""One input through its encoder, or through teacher forcing: the decoder reads given tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from seamless_engine.block_manager import PROMPT_LENGTH, blocks_needed, slots_of
from seamless_engine.errors import CapacityError
from seamless_engine.model_inputs import Features, Tokens
from seamless_engine.model_runner import ModelRunner
from seamless_engine.models.text_decoder import StepInputs
from seamless_kernels.transfer import upload

_OWNER = -1  # of the reserved blocks; serial numbers of requests start at 0


@torch.inference_mode()
def forced_logits(runner: ModelRunner, source: Features | Tokens, tokens: Sequence[int]) -> torch.Tensor:
    """The logits after tokens[: t + 1], for each t: float32 [len(tokens), vocab].

    All positions are queries of one decode step. Its slots are reserved in the pool meanwhile.

    Raises CapacityError if they do not fit the pool, or if there are more tokens than a request may have.
    """
    device, pad = runner.device, runner.config.pad_token_id
    limit = len(runner.decoder.positions.table) - runner.decoder.positions.first
    if len(tokens) > limit:
        raise CapacityError(f"{len(tokens)} decoder tokens, more than {limit}: raise EngineConfig.max_new_tokens")
    encoder_states = encode(runner, source)
    count = blocks_needed(len(encoder_states), 1, len(tokens) - PROMPT_LENGTH)
    if not runner.blocks.can_reserve(count, 0):
        raise CapacityError(f"{count} blocks of 16 slots are needed, {runner.blocks.free_blocks} are free")
    blocks, _ = runner.blocks.reserve(_OWNER, count, 0)
    try:
        slots, ids, queries, first, cross_lengths, cu_queries = upload(
            device,
            slots_of(blocks).astype(np.int64),
            np.array(tokens),
            np.arange(len(tokens), dtype=np.int32),
            *(np.array(values, dtype=np.int32) for values in ([0], [len(encoder_states)], [0, len(tokens)])),
        )
        own, cross = slots[: len(tokens)], slots[-len(encoder_states) :]
        runner.decoder.store_encoder_states(encoder_states, cross, runner.pool)
        inputs = StepInputs(
            tokens=ids,
            positions=(ids != pad).cumsum(0) - 1,  # a pad token has no position
            slots=own,
            slot_table=own.int()[None],
            beams=torch.zeros_like(queries),
            lengths=queries + 1,
            cross_table=cross.int()[None],
            requests=first,
            cross_lengths=cross_lengths,
            cu_queries=cu_queries,
        )
        return runner.decoder.next_tokens(runner.decoder.step(inputs, runner.pool)).logits
    finally:
        runner.blocks.free(_OWNER)


@torch.inference_mode()
def encode(runner: ModelRunner, source: Features | Tokens) -> torch.Tensor:
    """The encoder states [length, dim] of one input."""
    return runner.encode_features([source]) if isinstance(source, Features) else runner.encode_text([source.ids])
