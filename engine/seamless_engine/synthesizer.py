"""The speech pass: the states that decode kept → characters → units → waveform, for all hypotheses of a pass at once.

The host waits three times for numbers of a pass (how many units, how many frames, which units), then for the samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from seamless_engine.block_manager import PROMPT_LENGTH
from seamless_engine.config import ModelConfig
from seamless_engine.device import on
from seamless_engine.errors import NumericalError
from seamless_engine.inputs.characters import CharacterTable
from seamless_engine.job import Job
from seamless_engine.models.layers import cumulative, segment_sums
from seamless_engine.models.t2u import TextToUnit, Units
from seamless_engine.models.vocoder import Clips, Vocoder
from seamless_engine.request import DecodingParams, Hypothesis
from seamless_engine.search.processors import gumbel

_ROWS = 512  # units whose scores exist at a time


@dataclass(frozen=True)
class SynthesisInput:
    """What the speech pass keeps of a hypothesis: states [length, dim] of all tokens but the last, and their ids."""

    states: torch.Tensor
    tokens: torch.Tensor  # int64 [length], prompt included


@dataclass(frozen=True)
class _Sentence:
    """A hypothesis that is to be spoken, and how many characters it has."""

    job: Job
    hypothesis: Hypothesis
    speech: SynthesisInput
    characters: int


class SpeechSynthesizer:
    def __init__(self, t2u: TextToUnit, vocoder: Vocoder, config: ModelConfig, device: torch.device) -> None:
        self.t2u = t2u
        self.vocoder = vocoder
        self.characters = CharacterTable(config, device)
        self.config = config
        self.device = device

    @torch.inference_mode()
    def speak(self, jobs: Sequence[Job]) -> None:
        """Units and waveform of every hypothesis of the requests. A sentence without characters gives no samples."""
        sentences = []
        for job in jobs:
            for hypothesis, speech in zip(job.result.n_best, job.speech, strict=True):
                hypothesis.audio = np.zeros(0, dtype=np.float32)
                sentences += self._sentence(job, hypothesis, speech)
        if not sentences:
            return
        clips = self._clips(sentences)
        rate = self.vocoder.samples_per_frame
        audio = [np.empty((last - first) * rate, dtype=np.float32) for first, last in pairwise(clips.bounds)]
        for windows in self.vocoder.passes(clips):
            samples, done = self.vocoder(clips, windows).cpu().numpy(), 0
            for clip, start, end in windows:
                count = (end - start) * rate
                audio[clip][start * rate : end * rate] = samples[done : done + count]
                done += count
        for sentence, waveform in zip(sentences, audio, strict=True):
            sentence.hypothesis.audio = waveform

    @torch.inference_mode()
    def stream(self, job: Job) -> Iterator[np.ndarray]:
        """The waveform of the best hypothesis, window by window, and its units. Raises NumericalError."""
        sentences = self._sentence(job, job.result.n_best[0], job.speech[0])
        job.speech = None
        if not sentences:
            return
        with on(self.device):
            clips = self._clips(sentences)
        for windows in self.vocoder.passes(clips):
            for window in windows:
                with on(self.device):  # and not what the caller does in between
                    samples = self.vocoder(clips, [window]).cpu().numpy()
                if not np.isfinite(samples).all():
                    raise NumericalError("the speech of this request is not finite; check the weights")
                yield samples

    def _sentence(self, job: Job, hypothesis: Hypothesis, speech: SynthesisInput) -> list[_Sentence]:
        """One, or none for a hypothesis without characters: its speech is empty."""
        hypothesis.units = np.zeros(0, dtype=np.int64)
        characters = self.characters.count(hypothesis.tokens[:-1])
        return [_Sentence(job, hypothesis, speech, characters)] if characters else []

    def _clips(self, sentences: Sequence[_Sentence]) -> Clips:
        """What the vocoder is to say. The hypotheses know their units afterwards."""
        units = self._units(sentences)
        bounds = cumulative(torch.tensor(units.lengths, device=self.device))
        params = [sentence.job.params for sentence in sentences]
        chosen, finite = self._choose(units, params)
        ids, unknown = self._vocoder_ids(chosen)
        voices = [sentence.job.voice for sentence in sentences]
        clips = self.vocoder.clips(
            ids,
            bounds,
            torch.tensor([voice.language for voice in voices if voice], device=self.device),
            torch.tensor([voice.speaker for voice in voices if voice], device=self.device),
            [p.vocoder_durations for p in params],
        )
        silent = segment_sums(unknown.long(), bounds)
        numbers = torch.cat((ids, silent, finite.all().long()[None])).cpu().numpy()
        if not numbers[-1]:
            raise NumericalError("the unit scores of this request are not finite; check the weights")
        found = np.split(numbers[: len(ids)], np.cumsum(units.lengths)[:-1])
        for sentence, unit, count in zip(sentences, found, numbers[len(ids) : -1], strict=True):
            sentence.hypothesis.units = unit.copy()
            if count:
                sentence.job.result.warnings.append(f"{count} units that the vocoder does not have were left silent")
        return clips

    def _units(self, sentences: Sequence[_Sentence]) -> Units:
        pad = self.config.pad_token_id
        lengths = [len(sentence.speech.tokens) for sentence in sentences]
        valid = [
            length - sentence.hypothesis.tokens[:-1].count(pad)
            for sentence, length in zip(sentences, lengths, strict=True)
        ]
        bounds = cumulative(torch.tensor(lengths, device=self.device))
        tokens = torch.cat([sentence.speech.tokens for sentence in sentences])
        total = sum(sentence.characters for sentence in sentences)
        char_ids, counts = self.characters.expand(tokens, bounds, prompt=PROMPT_LENGTH, total=total)
        return self.t2u(
            torch.cat([sentence.speech.states for sentence in sentences]),
            bounds,
            torch.tensor(valid, dtype=torch.int32, device=self.device),
            char_ids,
            # To the state that predicts a token, which is the one before; those of the prompt have no characters.
            counts.roll(-1),
        )

    def _choose(self, units: Units, params: Sequence[DecodingParams]) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit ids int64 [total], and whether the scores of each are finite. Few scores exist at a time."""
        ids, finite = [], []
        for states in units.states.split(_ROWS):
            logits = self.t2u.logits(states)
            ids.append(logits.argmax(-1))
            finite.append(logits.sum(-1).isfinite())
        chosen = torch.cat(ids)
        sentences = zip(units.states.split(units.lengths), chosen.split(units.lengths), params, strict=True)
        for states, mine, p in sentences:
            if draws_units(p):
                for first in range(0, len(mine), _ROWS):
                    logits = self.t2u.logits(states[first : first + _ROWS])
                    mine[first : first + _ROWS] = choose_units(logits, p, first)
        return chosen, torch.cat(finite)

    def _vocoder_ids(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """T2U ids → rows of the unit table. eos, and ids that the table does not have, count as padding."""
        pad = self.config.t2u_pad_token_id
        shifted = ids - self.config.vocoder_offset
        special = (ids == pad) | (ids == self.config.t2u_eos_token_id)
        unknown = ((shifted < 0) | (shifted >= self.config.unit_hifi_gan_vocab_size)) & ~special
        return torch.where(special | unknown, pad, shifted), unknown


def choose_units(logits: torch.Tensor, params: DecodingParams, first: int = 0) -> torch.Tensor:
    """Unit ids int64 [units] from logits [units, vocab]: the best, or a draw at a temperature other than 1.

    first: position in its sentence of the first of the units, which keys the draw together with the request's seed.
    """
    if not draws_units(params):
        return logits.argmax(-1)
    stream = torch.arange(first, first + len(logits), device=logits.device)
    seed_low, seed_high = (torch.full_like(stream, params.seed >> shift & 0xFFFFFFFF) for shift in (0, 32))
    noise = gumbel(seed_low, seed_high, torch.zeros_like(stream), stream, logits.shape[1])
    return (logits / params.speech_temperature + noise).argmax(-1)


def draws_units(params: DecodingParams) -> bool:
    return params.speech_do_sample and params.speech_temperature != 1.0
