"""The vocoder: units, language and speaker to a waveform, 320 samples a unit.

    python -m demo.train.vocoder --work DIR [--steps 4500] [--adversarial 3000] [--minutes 8]

Each step makes 8 stretches of 32 units (0.64 s). Loss: over FFTs of 128, 256, 512 and 1024 the mean of spectral
convergence and L1 of log magnitudes, plus L1 of log-mel. From step --adversarial on also HiFi-GAN's: multi-period
discriminators, least squares, and the distance of their feature maps.
"""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import nn
from transformers import SeamlessM4Tv2Model

from demo.train.network import FIRST_UNIT, build
from demo.train.progress import Progress, arguments, seeded
from demo.train.tokens import Tokens
from demo.train.units import FRAME, Sentence, load
from demo.train.words import LANGUAGES
from seamless_kernels.fbank import mel_filters

PEAK, WARM_UP = 2e-3, 50
STRETCH, BATCH, EVERY, DEV = 32, 8, 200, 24
FFTS = (128, 256, 512, 1024)
PERIODS = (2, 3, 5, 7, 11)


class Discriminator(nn.Module):
    """Samples folded at a period, [B, 1, n / period, period], through strided convolutions along time."""

    def __init__(self, period: int, channels: int = 16) -> None:
        super().__init__()
        self.period = period
        widths = [1, channels, 2 * channels, 4 * channels, 4 * channels]
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, (5, 1), (3, 1), (2, 0)) for a, b in zip(widths, widths[1:], strict=False)
        )
        self.last = nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0))

    def forward(self, wave: torch.Tensor) -> list[torch.Tensor]:
        """wave [B, n] → feature maps, the verdict last."""
        wave = F.pad(wave, (0, -wave.shape[1] % self.period))
        maps = [wave.view(len(wave), 1, -1, self.period)]
        for layer in self.layers:
            maps.append(F.leaky_relu(layer(maps[-1]), 0.1))
        return [*maps[1:], self.last(maps[-1])]


def vocode(model: SeamlessM4Tv2Model, units: torch.Tensor, speakers: torch.Tensor, langs: torch.Tensor) -> torch.Tensor:
    """[B, n] clusters → [B, n · 320] samples; what the vocoder does when every unit lasts one frame."""
    vocoder = model.vocoder
    length = units.shape[1]
    columns = [vocoder.language_embedding(langs), vocoder.speaker_embedding(speakers)]
    lang, speaker = (column[:, :, None].expand(-1, -1, length) for column in columns)
    unit = vocoder.unit_embedding(units + FIRST_UNIT).transpose(1, 2)
    return vocoder.hifi_gan(torch.cat([lang, unit, speaker], 1))


def magnitude(wave: torch.Tensor, fft: int) -> torch.Tensor:
    window = torch.hann_window(fft, device=wave.device)
    return torch.stft(wave, fft, fft // 4, fft, window, return_complex=True).abs().clamp(min=1e-5)


def log_mel(wave: torch.Tensor) -> torch.Tensor:
    filters = torch.from_numpy(mel_filters()).float().to(wave.device)
    return (magnitude(wave, 512).transpose(1, 2) @ filters + 1e-4).log()


def spectral(made: torch.Tensor, real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The distance of magnitudes, mean over the resolutions, and that of log-mels."""
    total = made.new_zeros(())
    for fft in FFTS:
        a, b = magnitude(made, fft), magnitude(real, fft)
        total = total + (a - b).norm() / (b.norm() + 1e-3) + F.l1_loss((a + 1e-3).log(), (b + 1e-3).log())
    return total / len(FFTS), F.l1_loss(log_mel(made), log_mel(real))


def stretches(
    sentences: list[Sentence], count: int, device: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random stretches: units [B, 32], speakers [B], languages [B], samples [B, 32 · 320]."""
    chosen = random.sample(sentences, count)
    first = [random.randint(0, len(s.units) - STRETCH) for s in chosen]
    units = torch.stack([torch.from_numpy(s.units[i : i + STRETCH]) for s, i in zip(chosen, first, strict=True)])
    waves = [torch.from_numpy(s.samples[i * FRAME : (i + STRETCH) * FRAME]) for s, i in zip(chosen, first, strict=True)]
    speakers = torch.tensor([s.speaker for s in chosen])
    langs = torch.tensor([LANGUAGES.index(s.lang) for s in chosen])
    return units.to(device), speakers.to(device), langs.to(device), torch.stack(waves).to(device)


@torch.no_grad()
def distance(model: SeamlessM4Tv2Model, sentences: list[Sentence], device: str) -> float:
    """Mean log-mel L1 of held-out sentences, complete."""
    total = 0.0
    for s in sentences:
        units = torch.from_numpy(s.units)[None].to(device)
        speaker, lang = torch.tensor([s.speaker], device=device), torch.tensor([LANGUAGES.index(s.lang)], device=device)
        made = vocode(model, units, speaker, lang)
        total += float(F.l1_loss(log_mel(made), log_mel(torch.from_numpy(s.samples)[None].to(device))))
    return total / len(sentences)


def adversarial(made: list[list[torch.Tensor]], real: list[list[torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """What the vocoder loses to the discriminators, and the distance of the feature maps."""
    fooled = torch.stack([(1 - maps[-1]).square().mean() for maps in made]).sum()
    pairs = [pair for a, b in zip(made, real, strict=True) for pair in zip(a[:-1], b[:-1], strict=True)]
    return fooled, torch.stack([F.l1_loss(a, b.detach()) for a, b in pairs]).sum()


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--adversarial", type=int, default=3000, help="the step from which the discriminators judge")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = build(Tokens(args.work), args.hidden, args.seed, args.start).to(args.device)
    judges = nn.ModuleList(Discriminator(period) for period in PERIODS).to(args.device)
    optimiser = torch.optim.AdamW(model.vocoder.parameters(), lr=PEAK, betas=(0.8, 0.99), weight_decay=0.0, fused=True)
    judging = torch.optim.AdamW(judges.parameters(), lr=2e-4, betas=(0.8, 0.99), fused=True)
    progress = Progress(
        args.work, "vocoder", args.minutes, vocoder=model.vocoder, optimiser=optimiser, judges=judges, judging=judging
    )
    train, dev = load(args.work, args.seed)
    paired = {(s.concept, s.lang) for s in train if s.speaker == 1}
    train = [s for s in train if (s.concept, s.lang) in paired and len(s.units) >= STRETCH]
    while progress.step < args.steps and not progress.out_of_time:
        seeded(args.seed, progress.step)
        for group in optimiser.param_groups:
            group["lr"] = PEAK * min(1.0, (progress.step + 1) / WARM_UP) * (1 - 0.95 * progress.step / args.steps)
        units, speakers, langs, real = stretches(train, BATCH * args.scale, args.device)
        made = vocode(model, units, speakers, langs)
        magnitudes, mel = spectral(made, real)
        loss = magnitudes + mel
        progress.add(magnitudes=magnitudes, mel=mel)
        if progress.step >= args.adversarial:
            verdicts = [(judge(real)[-1], judge(made.detach())[-1]) for judge in judges]
            judged = torch.stack([(1 - a).square().mean() + b.square().mean() for a, b in verdicts]).sum()
            judging.zero_grad()
            judged.backward()
            judging.step()
            fooled, maps = adversarial([judge(made) for judge in judges], [judge(real) for judge in judges])
            loss = loss + 0.05 * fooled + 0.1 * maps
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.vocoder.parameters(), 5.0)
        optimiser.step()
        progress.step += 1
        progress.hours += real.numel() / 16000 / 3600
        if progress.step % EVERY == 0:
            progress.write(dev_mel=round(distance(model, dev[:DEV], args.device), 4))
        progress.save()
    progress.end(progress.step >= args.steps)


if __name__ == "__main__":
    main()
