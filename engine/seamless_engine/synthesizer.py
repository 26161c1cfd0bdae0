"""The synthesis pass: decoder states → characters → units → waveform, for all hypotheses of a pass at once.

The host waits for the device twice, for the numbers of units and the numbers of frames. It waits for the samples of a
pass of the vocoder after it has launched the next one, and for the last ones when the caller asks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
from seamless_engine.models.layers import segment_sums
from seamless_engine.models.lengths import bounds_of
from seamless_engine.models.t2u import TextToUnit, Units
from seamless_engine.models.vocoder import Clips, Vocoder, Window
from seamless_engine.request import DecodingParams, Hypothesis
from seamless_engine.search.processors import gumbel
from seamless_kernels.transfer import Download, upload

LOGIT_ROWS = 512  # units whose logits are computed at a time


@dataclass(frozen=True)
class SynthesisInput:
    """What the synthesis pass reads of a hypothesis: the decoder states [length, dim] of all tokens but the last."""

    states: torch.Tensor
    tokens: torch.Tensor  # int64 [length], prompt included


@dataclass(frozen=True)
class _Sentence:
    """A hypothesis that has characters, and what is read of it."""

    job: Job
    hypothesis: Hypothesis
    inputs: SynthesisInput
    num_characters: int


class SpeechSynthesizer:
    def __init__(self, t2u: TextToUnit, vocoder: Vocoder, config: ModelConfig, device: torch.device) -> None:
        self.t2u = t2u
        self.vocoder = vocoder
        self.characters = CharacterTable(config, device)
        self.config = config
        self.device = device

    @torch.inference_mode()
    def synthesize(self, jobs: Sequence[Job]) -> Callable[[], None]:
        """The units of every hypothesis of the requests. Call what is returned for the waveforms: it waits for them.

        Both are empty for a hypothesis without characters.
        """
        sentences = []
        for job in jobs:
            for hypothesis, inputs in zip(job.result.n_best, job.speech, strict=True):
                hypothesis.audio = np.zeros(0, dtype=np.float32)
                sentences += self._sentence(job, hypothesis, inputs)
        if not sentences:
            return lambda: None
        clips = self._clips(sentences)
        rate = self.vocoder.samples_per_frame
        audio = [np.empty((last - first) * rate, dtype=np.float32) for first, last in pairwise(clips.bounds)]
        before = None
        for windows in self.vocoder.passes(clips):
            launched = windows, Download(self.vocoder(clips, windows))
            if before:
                _enter_samples(audio, *before, rate)
            before = launched

        def finish() -> None:
            if before:
                _enter_samples(audio, *before, rate)
            for sentence, waveform in zip(sentences, audio, strict=True):
                sentence.hypothesis.audio = waveform

        return finish

    @torch.inference_mode()
    def stream(self, job: Job) -> Iterator[np.ndarray]:
        """The waveform of the best hypothesis, window by window; its units are set first. Raises NumericalError."""
        sentences = self._sentence(job, job.result.n_best[0], job.speech[0])
        job.speech = None
        if not sentences:
            return
        with on(self.device):
            clips = self._clips(sentences)
        for windows in self.vocoder.passes(clips):
            for window in windows:
                with on(self.device):  # not around `yield`: the caller runs there
                    samples = Download(self.vocoder(clips, [window])).wait().copy()
                if not np.isfinite(samples).all():
                    raise NumericalError("the speech of this request is not finite; check the weights")
                yield samples

    def _sentence(self, job: Job, hypothesis: Hypothesis, inputs: SynthesisInput) -> list[_Sentence]:
        """One sentence, or none for a hypothesis without characters."""
        hypothesis.units = np.zeros(0, dtype=np.int64)
        num_characters = self.characters.count(hypothesis.tokens[:-1])
        return [_Sentence(job, hypothesis, inputs, num_characters)] if num_characters else []

    def _clips(self, sentences: Sequence[_Sentence]) -> Clips:
        """The input of the vocoder. The units of the hypotheses are set."""
        units = self.run_t2u(sentences)
        params = [sentence.job.params for sentence in sentences]
        chosen, finite = self.unit_ids(units, params)
        ids, unknown = self._vocoder_ids(chosen)
        voices = [sentence.job.voice for sentence in sentences]
        bounds, languages, speakers = upload(
            self.device,
            bounds_of(units.lengths),
            np.array([voice.language for voice in voices if voice]),
            np.array([voice.speaker for voice in voices if voice]),
        )
        silent = segment_sums(unknown.long(), bounds)
        copied = Download(torch.cat((ids, silent, finite.all().long()[None])))
        clips = self.vocoder.clips(ids, bounds, languages, speakers, [p.vocoder_durations for p in params])
        numbers = copied.wait()  # it has come with the numbers of frames
        if not numbers[-1]:
            raise NumericalError("the unit scores of this request are not finite; check the weights")
        unit_ids = np.split(numbers[: len(ids)], np.cumsum(units.lengths)[:-1])
        for sentence, own_ids, count in zip(sentences, unit_ids, numbers[len(ids) : -1], strict=True):
            sentence.hypothesis.units = own_ids.copy()
            if count:
                sentence.job.result.warnings.append(f"{count} units that the vocoder does not have were left silent")
        return clips

    def run_t2u(self, sentences: Sequence[_Sentence]) -> Units:
        pad = self.config.pad_token_id
        lengths = [len(sentence.inputs.tokens) for sentence in sentences]
        valid = [
            length - sentence.hypothesis.tokens[:-1].count(pad)
            for sentence, length in zip(sentences, lengths, strict=True)
        ]
        bounds, valid = upload(self.device, bounds_of(lengths), np.array(valid, dtype=np.int32))
        tokens = torch.cat([sentence.inputs.tokens for sentence in sentences])
        total = sum(sentence.num_characters for sentence in sentences)
        char_ids, counts = self.characters.expand(tokens, bounds, prompt=PROMPT_LENGTH, total=total)
        return self.t2u(
            torch.cat([sentence.inputs.states for sentence in sentences]),
            bounds,
            valid,
            char_ids,
            # The characters of a token belong to the state before it, which predicts it. The prompt has none.
            counts.roll(-1),
        )

    def unit_ids(self, units: Units, params: Sequence[DecodingParams]) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit ids int64 [total], and whether the logits of each unit are finite: bool [total]."""
        ids, finite = [], []
        for states in units.states.split(LOGIT_ROWS):
            logits = self.t2u.logits(states)
            ids.append(logits.argmax(-1))
            finite.append(logits.sum(-1).isfinite())
        chosen = torch.cat(ids)
        sentences = zip(units.states.split(units.lengths), chosen.split(units.lengths), params, strict=True)
        for states, own_ids, p in sentences:
            if samples_units(p):
                for first in range(0, len(own_ids), LOGIT_ROWS):
                    logits = self.t2u.logits(states[first : first + LOGIT_ROWS])
                    own_ids[first : first + LOGIT_ROWS] = choose_units(logits, p, first)
        return chosen, torch.cat(finite)

    def _vocoder_ids(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """T2U ids → indices of the vocoder's unit table, and which ids are not in it. These and eos become padding."""
        pad = self.config.t2u_pad_token_id
        shifted = ids - self.config.vocoder_offset
        special = (ids == pad) | (ids == self.config.t2u_eos_token_id)
        unknown = ((shifted < 0) | (shifted >= self.config.unit_hifi_gan_vocab_size)) & ~special
        return torch.where(special | unknown, pad, shifted), unknown


def _enter_samples(audio: list[np.ndarray], windows: list[Window], samples: Download, rate: int) -> None:
    """Wait for the samples of a pass of the vocoder, and enter them into the clips, `rate` for each frame."""
    found, done = samples.wait(), 0
    for clip, start, end in windows:
        count = (end - start) * rate
        audio[clip][start * rate : end * rate] = found[done : done + count]
        done += count


def choose_units(logits: torch.Tensor, params: DecodingParams, first: int = 0) -> torch.Tensor:
    """Unit ids int64 [units] from logits [units, vocab]: the best, or a sample at a temperature other than 1.

    first: the position of the first unit in its sentence. Position and seed of the request determine the sample.
    """
    if not samples_units(params):
        return logits.argmax(-1)
    stream = torch.arange(first, first + len(logits), device=logits.device)
    seed_low, seed_high = (torch.full_like(stream, params.seed >> shift & 0xFFFFFFFF) for shift in (0, 32))
    noise = gumbel(seed_low, seed_high, torch.zeros_like(stream), stream, logits.shape[1])
    return (logits / params.speech_temperature + noise).argmax(-1)


def samples_units(params: DecodingParams) -> bool:
    return params.speech_do_sample and params.speech_temperature != 1.0
