"""The unit model: states of the text decoder to units, each character for as long as its duration.

    python -m demo.train.t2u --work DIR [--steps 2000] [--minutes 8]

transformers' module lengthens by its own rounded predictions, so its loss on labels of another length is unusable. In
training the duration predictor therefore answers with the true durations, and what it would have said is kept:

    loss = CE(units) + MSE(log1p duration)

The text model is frozen; its states come from a random source language.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import SeamlessM4Tv2Model

from demo.train.align import translator
from demo.train.domain import text
from demo.train.network import FIRST_UNIT, VOCODER_OFFSET, Translator, build, pad
from demo.train.optimisers import Optimisers
from demo.train.progress import Progress, arguments, seeded
from demo.train.tokens import Tokens
from demo.train.units import Sentence, load
from demo.train.words import LANGUAGES

PEAK, WARM_UP, BATCH, EVERY, SMOOTHING = 1.5e-3, 100, 16, 100, 0.05


class Timed(NamedTuple):
    """A sentence and how many units each of its characters lasts."""

    sentence: Sentence
    durations: np.ndarray


def timed(work: Path, seed: int) -> tuple[list[Timed], list[Timed]]:
    """To train on and held out. Raises FileNotFoundError before `align` has run."""
    path = work / "durations.npz"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: run python -m demo.train.align --work {work} first")
    with np.load(path) as stored:
        durations = np.split(stored["durations"], stored["bounds"][1:-1])
    splits = [[s for s in split if s.speaker == 0] for split in load(work, seed)]
    train, held = splits
    both = [Timed(s, d) for s, d in zip([*train, *held], durations, strict=True)]
    return both[: len(train)], both[len(train) :]


class UnitModel(nn.Module):
    """The unit model behind the frozen translator, with durations that can be forced."""

    def __init__(self, model: SeamlessM4Tv2Model, net: Translator) -> None:
        super().__init__()
        self.t2u = model.t2u_model
        self._net = [net]  # a list: not a part of what is trained and saved
        self.said = torch.empty(0)
        self.forced: torch.Tensor | None = None
        predictor = self.t2u.model.decoder.duration_predictor
        self._predict = predictor.forward
        predictor.forward = self._durations  # type: ignore[method-assign]

    def _durations(self, states: torch.Tensor, padding_mask: torch.Tensor | None = None) -> torch.Tensor:
        self.said = self._predict(states, padding_mask)
        return self.said if self.forced is None else torch.log1p(self.forced)

    def forward(self, batch: list[Timed], sources: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [B, units, vocabulary] with true durations, which [B, characters] are returned beside."""
        net = self._net[0]
        tokens, device = net.tokens, net.device
        memory, mask = net.read(
            [text(t.sentence.concept, lang) for t, lang in zip(batch, sources, strict=True)], sources
        )
        targets = [tokens.target(t.sentence.text, t.sentence.lang)[:-1] for t in batch]
        ids = pad(targets, 0, device)
        with torch.no_grad():
            states = net.states(ids, memory, mask)
        pieces = [[tokens.model.id_to_piece(i - 1) for i in row[2:]] for row in targets]
        characters = pad([[tokens.characters[c] for c in "".join(row)] for row in pieces], 0, device)
        counts = pad([[0, *map(len, row), 0] for row in pieces], 0, device)[:, : ids.shape[1]]
        self.forced = pad([t.durations.tolist() for t in batch], 0, device).float()
        output = self.t2u(
            inputs_embeds=states, attention_mask=(ids != 0).long(), char_input_ids=characters, char_count_per_id=counts
        )
        return output.last_hidden_state, self.forced


def labels(batch: list[Timed], device: torch.device) -> torch.Tensor:
    return pad([(t.sentence.units + FIRST_UNIT + VOCODER_OFFSET).tolist() for t in batch], -100, device)


@torch.no_grad()
def figures(units: UnitModel, held: list[Timed], device: torch.device) -> dict[str, float]:
    """On held-out sentences: share of right units at true durations, error of a duration in units, ratio of lengths."""
    units.eval()
    right = total = error = said = true = 0.0
    characters = 0
    for first in range(0, len(held), BATCH):
        batch = held[first : first + BATCH]
        logits, durations = units(batch, [LANGUAGES[i % 4] for i in range(len(batch))])
        wanted = labels(batch, device)
        right += float((logits.argmax(-1) == wanted).sum())
        total += float((wanted >= 0).sum())
        spoken = durations > 0
        guessed = torch.expm1(units.said)[spoken]
        error += float((guessed - durations[spoken]).abs().sum())
        said += float(guessed.sum())
        true += float(durations.sum())
        characters += int(spoken.sum())
    units.train()
    return {
        "dev_units": round(right / total, 4),
        "dev_duration_error": round(error / characters, 3),
        "dev_length_ratio": round(said / true, 3),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokens = Tokens(args.work)
    net = translator(args.work, tokens, args.hidden, args.device).requires_grad_(False)
    units = UnitModel(build(tokens, args.hidden, args.seed, args.start).to(args.device), net).train()
    optimisers = Optimisers(units.named_parameters())
    progress = Progress(args.work, "t2u", args.minutes, units=units, optimisers=optimisers)
    train, held = timed(args.work, args.seed)
    while progress.step < args.steps and not progress.out_of_time:
        seeded(args.seed, progress.step)
        left = 1 - 0.97 * progress.step / args.steps
        lr = PEAK * min(1.0, (progress.step + 1) / WARM_UP) * left
        batch = random.sample(train, BATCH * args.scale)
        logits, durations = units(batch, [random.choice(LANGUAGES) for _ in batch])
        wanted = labels(batch, net.device)
        loss = F.cross_entropy(logits.transpose(1, 2), wanted, ignore_index=-100, label_smoothing=SMOOTHING)
        spoken = durations > 0
        duration = (units.said - torch.log1p(durations))[spoken].square().mean()
        optimisers.zero_grad()
        (loss + duration).backward()
        torch.nn.utils.clip_grad_norm_(units.parameters(), 1.0)
        optimisers.step(lr)
        progress.step += 1
        progress.hours += sum(len(t.sentence.units) for t in batch) / 50 / 3600
        progress.add(units=loss, duration=duration)
        if progress.step % EVERY == 0:
            progress.write(**figures(units, held, net.device))
        progress.save()
    progress.end(progress.step >= args.steps)


if __name__ == "__main__":
    main()
