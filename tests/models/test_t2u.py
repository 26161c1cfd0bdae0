"""Units and durations of packed sentences equal the reference's for each alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from support.models import parts
from support.oracle import load
from support.packed import bounds, normal
from tolerance import MARGIN


@pytest.mark.parametrize("seed", range(3))
def test_packed_sentences(checkpoint: Callable[[int], Path], seed: int) -> None:
    folder = checkpoint(seed)
    runner = parts(folder)
    assert runner.t2u is not None
    generator = torch.Generator().manual_seed(seed)
    lengths = [3, 4, 11, 29, 5]
    states = [normal(length, runner.config.hidden_size, seed=length) for length in lengths]
    counts = [torch.randint(0, 4, (length,), generator=generator) for length in lengths]
    for count in counts:
        count[1] = 2
    chars = [torch.randint(0, 40, (int(count.sum()),), generator=generator) for count in counts]
    cu = bounds(lengths)
    with torch.inference_mode():
        units = runner.t2u(torch.cat(states), cu, cu.diff(), torch.cat(chars), torch.cat(counts))
        sizes = units.cu_seqlens.diff().tolist()
        for i, mine in enumerate(units.logits.argmax(-1).split(sizes)):
            logits = load(folder).model.t2u_model(
                inputs_embeds=states[i][None],
                char_input_ids=chars[i][None],
                char_count_per_id=counts[i][None],
                attention_mask=torch.ones(1, lengths[i]),
            )[0][0]
            assert len(mine) == len(logits)
            best = logits.topk(2)
            clear = best.values[:, 0] - best.values[:, 1] > MARGIN
            assert torch.equal(mine[clear], best.indices[clear, 0]) and clear.float().mean() > 0.99
