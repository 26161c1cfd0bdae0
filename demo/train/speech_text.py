"""Speech and text into text: recognition, speech translation and text translation trained together.

    python -m demo.train.speech_text --work DIR [--hours 75] [--minutes 8]

Each step hears some 20 s of clips and reads 24 sentences. Of a clip it wants the words in its own language with
probability 1/2, in the last third of the hours 1/4, else in any of the four:

    loss = CE(speech) + 0.5 · CE(text) + 0.7 · CTC(characters, 50 a second) + 0.3 · CTC(pieces, 6 a second)

both CTCs of what is said. Without the second one the adapter learns to say nothing: to a decoder that cannot follow the
speech yet, its states are noise.

CE(speech) joins after 3 hours, when the encoder tells letters apart. The learning rate rises over 200 steps, once more
when CE(speech) joins, stays, and falls over the last 55 % of --hours; run it again with more hours to train on.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

import jiwer
import numpy as np
import torch

from demo.train.clips import Clip, Store
from demo.train.domain import sample_concept, text
from demo.train.network import Translator, build
from demo.train.optimisers import Optimisers
from demo.train.progress import Progress, arguments, seeded
from demo.train.tokens import Tokens
from demo.train.words import LANGUAGES

PEAK, WARM_UP, LAST = 1.5e-3, 200, 0.55
LETTERS = 3.0  # hours before the decoder hears: while the encoder says nothing it would learn to shut the adapter
RISE = 0.5  # hours for a second rise of the learning rate then
UNMASKED = 6.0  # hours: nothing repeats yet, and letters are found sooner without masks
OWN, OWN_AT_LAST = 0.5, 0.25  # share of clips to write down, beside those whose language is sampled
FRAMES, TEXTS = 1000, 24  # of a step: padded frames (20 ms) of speech, sentences
DEV = 64
EVERY = 250  # steps between points of the curve


class Batch(NamedTuple):
    """features [B, T, 160] padded with zeros, mask int64 [B, T], and the clips."""

    features: torch.Tensor
    mask: torch.Tensor
    clips: list[Clip]


def batch(store: Store, indices: list[int], device: torch.device | str) -> Batch:
    longest = max(store.lengths[i] for i in indices)
    features = np.zeros((len(indices), longest, 160), np.float32)
    mask = np.zeros((len(indices), longest), np.int64)
    for place, i in enumerate(indices):
        features[place, : store.lengths[i]] = store.features[i]
        mask[place, : store.lengths[i]] = 1
    clips = [store.clips[i] for i in indices]
    return Batch(torch.from_numpy(features).to(device), torch.from_numpy(mask).to(device), clips)


def batches(store: Store, frames: int, seed: int, step: int) -> Iterator[list[int]]:
    """Clips of like length, at most `frames` padded frames together, from the `step`-th batch on, without end."""
    epoch = 0
    while True:
        rng = np.random.default_rng((seed, epoch))
        groups: list[list[int]] = [[]]
        for i in np.argsort(store.lengths * rng.uniform(0.9, 1.1, len(store))):
            longest = max([store.lengths[j] for j in groups[-1]] + [store.lengths[i]])
            if longest * (len(groups[-1]) + 1) > frames:
                groups.append([])
            groups[-1].append(int(i))
        rng.shuffle(groups)
        if step < len(groups):
            yield from groups[step:]
        step = max(0, step - len(groups))
        epoch += 1


def masked(features: torch.Tensor) -> torch.Tensor:
    """SpecAugment in place: per clip two bands of up to 15 mel bins and two stretches of up to a twelfth of the batch's
    length become the mean, 0. A frame of 20 ms holds two of 80 bins."""
    for clip in features:
        bins = clip.view(-1, 80)
        for _ in range(2):
            width = random.randint(0, 15)
            first = random.randint(0, 80 - width)
            bins[:, first : first + width] = 0
            length = random.randint(0, len(clip) // 12)
            start = random.randint(0, len(clip) - length)
            clip[start : start + length] = 0
    return features


def learning_rate(step: int, hours: float, total: float) -> float:
    rise = min(1.0, (step + 1) / WARM_UP) if hours < LETTERS else min(1.0, 0.05 + (hours - LETTERS) / RISE)
    return PEAK * rise * min(1.0, max(0.02, (total - hours) / (LAST * total)))


def losses(
    net: Translator, part: Batch, hours: float, total: float, sentences: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """CTC of characters and of pieces, speech (0 as long as the decoder does not hear) and text, of clips and
    so many sentences."""
    own = [clip.lang for clip in part.clips]
    own_share = OWN if hours < total * 2 / 3 else OWN_AT_LAST
    langs = [lang if random.random() < own_share else random.choice(LANGUAGES) for lang in own]
    heard = part.features if hours < UNMASKED else masked(part.features)
    memory = net.hear(heard, part.mask)
    ctc, pieces = net.ctc_losses([clip.text for clip in part.clips], part.mask, *memory)
    speech = ctc.new_zeros(())
    if hours >= LETTERS:
        wanted = [text(clip.concept, lang) for clip, lang in zip(part.clips, langs, strict=True)]
        speech = net.loss(wanted, langs, *memory)
    concepts = [sample_concept(random.Random(random.random()), False) for _ in range(sentences)]
    source, target = ([random.choice(LANGUAGES) for _ in concepts] for _ in range(2))
    memory = net.read([text(c, lang) for c, lang in zip(concepts, source, strict=True)], source)
    written = net.loss([text(c, lang) for c, lang in zip(concepts, target, strict=True)], target, *memory)
    return ctc, pieces, speech, written


@torch.no_grad()
def figures(net: Translator, store: Store, count: int = DEV) -> dict[str, float]:
    """Greedy, on the first clips of the store: word error rate of ASR, and the share of exact texts of each task."""
    net.eval()
    said: dict[str, list[str]] = {"asr": [], "s2tt": [], "t2tt": []}
    wanted: dict[str, list[str]] = {"asr": [], "s2tt": [], "t2tt": []}
    for first in range(0, count, 32):
        part = batch(store, list(range(first, min(first + 32, count))), net.device)
        own = [clip.lang for clip in part.clips]
        other = [LANGUAGES[(LANGUAGES.index(lang) + 1 + i % 3) % 4] for i, lang in enumerate(own)]
        heard = net.hear(part.features, part.mask)
        read = net.read([clip.text for clip in part.clips], own)
        for task, langs, source in (("asr", own, heard), ("s2tt", other, heard), ("t2tt", other, read)):
            said[task] += net.greedy(langs, *source)
            wanted[task] += [text(clip.concept, lang) for clip, lang in zip(part.clips, langs, strict=True)]
    net.train()
    exact = {
        f"dev_{task}_exact": round(
            100 * float(np.mean([a == b for a, b in zip(wanted[task], said[task], strict=True)])), 1
        )
        for task in said
    }
    return {"dev_asr_wer": round(100 * float(jiwer.wer(wanted["asr"], said["asr"])), 1)} | exact


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--hours", type=float, default=75.0, help="of speech to hear in all")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokens = Tokens(args.work)
    net = Translator(build(tokens, args.hidden, args.seed, args.start), tokens).to(args.device).train()
    optimisers = Optimisers(net.named_parameters())
    progress = Progress(args.work, "speech_text", args.minutes, net=net, optimisers=optimisers)
    train, dev = Store(args.work, "train", args.seed), Store(args.work, "dev", args.seed)
    for indices in batches(train, FRAMES * args.scale, args.seed, progress.step):
        if progress.hours >= args.hours or progress.out_of_time:
            break
        seeded(args.seed, progress.step)
        lr = learning_rate(progress.step, progress.hours, args.hours)
        part = batch(train, indices, args.device)
        ctc, pieces, speech, written = losses(net, part, progress.hours, args.hours, TEXTS * args.scale)
        optimisers.zero_grad()
        (speech + 0.5 * written + 0.7 * ctc + 0.3 * pieces).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimisers.step(lr)
        progress.step += 1
        progress.hours += float(part.mask.sum()) / 50 / 3600
        progress.add(ctc=ctc, pieces=pieces, speech=speech, text=written)
        if progress.step % EVERY == 0:
            progress.write(lr=round(lr, 6), **figures(net, dev))
        progress.save()
    progress.end(progress.hours >= args.hours)


if __name__ == "__main__":
    main()
