"""Units and durations of packed sentences equal the reference's for each alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seamless_engine import NumericalError
from seamless_engine.models.layers import MAX_FRAMES, VariancePredictor
from support.models import parts
from support.on_cpu import bounds, normal
from support.oracle import load
from tolerance import MARGIN, assert_model_close

LENGTHS = [3, 4, 11, 29, 5, 1]
Sentence = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # states, characters, characters of each state


def sentences(folder: Path, seed: int) -> list[Sentence]:
    generator = torch.Generator().manual_seed(seed)
    hidden = parts(folder).config.hidden_size
    made = []
    for length in LENGTHS:
        counts = torch.randint(0, 4, (length,), generator=generator)
        counts[length // 2] = 2
        chars = torch.randint(0, 40, (int(counts.sum()),), generator=generator)
        made.append((normal(length, hidden, seed=length), chars, counts))
    return made


def run(folder: Path, packed: list[Sentence]) -> list[torch.Tensor]:
    """Logits of the units of each sentence."""
    t2u = parts(folder).t2u
    assert t2u is not None
    states, chars, counts = (torch.cat(part) for part in zip(*packed, strict=True))
    cu = bounds([len(s) for s, _, _ in packed])
    with torch.inference_mode():
        units = t2u(states, cu, cu.diff(), chars, counts)
        return list(t2u.logits(units.states).split(units.lengths))


@pytest.mark.parametrize("seed", range(3))
def test_t2u_equals_the_reference(checkpoint: Callable[[int], Path], seed: int) -> None:
    folder = checkpoint(seed)
    packed = sentences(folder, seed)
    for (states, chars, counts), own in zip(packed, run(folder, packed), strict=True):
        with torch.inference_mode():
            logits = load(folder).model.t2u_model(
                inputs_embeds=states[None],
                char_input_ids=chars[None],
                char_count_per_id=counts[None],
                attention_mask=torch.ones(1, len(states)),
            )[0][0]
        assert_model_close(own, logits)
        best = logits.topk(2)
        clear = best.values[:, 0] - best.values[:, 1] > MARGIN
        assert torch.equal(own.argmax(-1)[clear], best.indices[clear, 0]) and clear.float().mean() > 0.99


def test_t2u_is_batch_invariant(checkpoint: Callable[[int], Path]) -> None:
    folder = checkpoint(0)
    packed = sentences(folder, 7)
    together = run(folder, packed)
    backwards = run(folder, packed[::-1])[::-1]
    for sentence, one, other in zip(packed, together, backwards, strict=True):
        alone = run(folder, [sentence])[0]
        assert torch.equal(one, alone) and torch.equal(other, alone)


def test_duration_predictor_rounds_half_to_even_and_gives_at_least_one_frame(checkpoint: Callable[[int], Path]) -> None:
    t2u = parts(checkpoint(0)).t2u
    assert t2u is not None
    predictor = t2u.durations
    assert isinstance(predictor, VariancePredictor)
    frames = torch.tensor([-1.0, 0.2, 0.5, 1.5, 2.5, 3.5, 2.499, 1e9, torch.inf, torch.nan])
    hidden = len(predictor.norm2.weight)
    x, cu = torch.zeros(len(frames), parts(checkpoint(0)).config.hidden_size), bounds([len(frames)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictor, "norm2", lambda _: torch.zeros(len(frames), hidden))
        patch.setattr(predictor, "proj", lambda _: torch.log1p(frames.double())[:, None])
        durations = predictor(x, cu)
    assert durations.tolist() == [1, 1, 1, 2, 2, 4, 2, MAX_FRAMES, MAX_FRAMES, 0]


@pytest.mark.parametrize("duration,message", [(0, "NaN"), (MAX_FRAMES, "frames")])
def test_t2u_raises_for_durations_that_cannot_be(
    checkpoint: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, duration: int, message: str
) -> None:
    folder = checkpoint(0)
    monkeypatch.setattr(parts(folder).t2u, "durations", lambda x, cu: torch.full((len(x),), duration))
    with pytest.raises(NumericalError, match=message):
        run(folder, sentences(folder, 0))
