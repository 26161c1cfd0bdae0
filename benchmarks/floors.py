"""The least time of each stage of requests: what the model must compute and read, over the machine's two ceilings.

A matrix product takes two operations for each weight and row, and reads each weight once. Attention takes four for each
pair of positions and channel; in a decode step it reads keys and values of every position once, those of the source
once for all beams. Every kind of work counts by the larger of its two times. Norms, convolutions of one channel,
characters, the front end, launches and the host count nothing: a floor, not a forecast.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.roofline import Ceilings
from seamless_engine.block_manager import PROMPT_LENGTH
from seamless_engine.config import ModelConfig
from seamless_engine.loading.tensor_table import UNIT_NAMES, tensor_shapes


@dataclass(frozen=True)
class Work:
    """One request. Its source has either frames, of 20 ms of audio each, or tokens; new_tokens are generated.

    units, vocoder_frames: of its speech, before and after the vocoder's durations.
    """

    frames: int
    tokens: int
    new_tokens: int
    units: int = 0
    vocoder_frames: int = 0


class Floors:
    """element_size: bytes of a weight."""

    def __init__(self, config: ModelConfig, ceilings: Ceilings, element_size: int) -> None:
        self.config = config
        self.ceilings = ceilings
        self.element_size = element_size
        count = _counter(config)
        self._clip = count(r"speech_encoder\.(?!adapter)(?!.*distance_embedding)")
        self._adapter = count(r"speech_encoder\.adapter\.")
        self._sentence = count(r"text_encoder\.")
        self._cross = count(r"text_decoder\..*cross_attention\.[kv]_proj")
        self._decoder = count(r"text_decoder\.") - self._cross
        self._head = count(r"shared\.")
        self._t2u_encoder = count(r"t2u_model\.model\.encoder\.")
        self._t2u_decoder = count(r"t2u_model\.model\.decoder\.layers\.") + count(re.escape(UNIT_NAMES[0]))
        self._durations = count(r"vocoder\.dur_predictor\.")
        self._generator = count(r"vocoder\.hifi_gan\.")
        self._generator_operations = _generator_operations(config)

    def of(self, works: Sequence[Work], num_beams: int) -> dict[str, float]:
        """Seconds of each stage, all requests at once."""
        return {
            "encode": self.encode(works),
            "decode": self.decode(works, num_beams),
            "t2u": self.t2u(works),
            "vocoder": self.vocoder(works),
        }

    def encode(self, works: Sequence[Work]) -> float:
        """The encoder, and the keys and values that the decoder reads of what it gives."""
        c = self.config
        frames = [work.frames for work in works if work.frames]
        shortened = sum(self._encodings(work) for work in works if work.frames)
        per_frame = 2 * self._clip + 2 * c.speech_encoder_layers * c.num_relative_positions * c.hidden_size
        clips = per_frame * sum(frames) + 2 * self._adapter * shortened
        clips += 4 * c.speech_encoder_layers * c.hidden_size * sum(n * n for n in frames)
        tokens = [work.tokens for work in works if work.tokens]
        sentences = 2 * self._sentence * sum(tokens)
        sentences += 4 * c.encoder_layers * c.hidden_size * sum(n * n for n in tokens)
        cross = 2 * self._cross * sum(map(self._encodings, works))
        return (
            self._least(clips, self._clip + self._adapter)
            + self._least(sentences, self._sentence)
            + self._least(cross, self._cross)
        )

    def decode(self, works: Sequence[Work], num_beams: int) -> float:
        """Every request decodes from the first step on, until it has its tokens."""
        seconds = 0.0
        for step in range(max(work.new_tokens for work in works)):
            alive = [work for work in works if work.new_tokens > step]
            seconds += self.step([self._encodings(work) for work in alive], PROMPT_LENGTH + step, num_beams)
        return seconds

    def step(self, encodings: Sequence[int], length: int, num_beams: int) -> float:
        """One decode step of requests with so many encodings each, whose beams have read `length` tokens."""
        c, rows = self.config, num_beams * len(encodings)
        position = c.decoder_layers * c.hidden_size  # of keys, and of values
        own, others = rows * length, sum(encodings)
        attention = 4 * position * (own + num_beams * others)
        return (
            self._least(2 * self._decoder * rows, self._decoder)
            + self._least(2 * self._head * rows, self._head)
            + self._least(attention, 2 * position * (own + others))
        )

    def t2u(self, works: Sequence[Work]) -> float:
        """Its encoder on the text's tokens, its decoder and its head on the units."""
        c = self.config
        spoken = [work for work in works if work.units]
        tokens, units = [work.new_tokens + 1 for work in spoken], [work.units for work in spoken]
        encoder = 2 * self._t2u_encoder * sum(tokens)
        encoder += 4 * c.t2u_encoder_layers * c.hidden_size * sum(n * n for n in tokens)
        decoder = 2 * self._t2u_decoder * sum(units)
        decoder += 4 * c.t2u_decoder_layers * c.hidden_size * sum(n * n for n in units)
        return self._least(encoder + decoder, self._t2u_encoder + self._t2u_decoder)

    def vocoder(self, works: Sequence[Work]) -> float:
        """The durations of the units, and the samples."""
        durations = 2 * self._durations * sum(work.units for work in works)
        samples = self._generator_operations * sum(work.vocoder_frames for work in works)
        return self._least(durations, self._durations) + self._least(samples, self._generator)

    def _encodings(self, work: Work) -> int:
        return work.frames // self.config.adaptor_stride + 1 if work.frames else work.tokens

    def _least(self, operations: float, elements: float) -> float:
        return self.ceilings.floor(operations, elements * self.element_size) if operations else 0.0


def _counter(config: ModelConfig) -> Callable[[str], int]:
    """Elements of the matrices and kernels whose names match."""
    shapes = tensor_shapes(config)

    def count(pattern: str) -> int:
        return sum(math.prod(s) for name, s in shapes.items() if len(s) > 1 and re.match(pattern, name))

    return count


def _generator_operations(config: ModelConfig) -> int:
    """Of the vocoder's convolutions, for each of its frames: every stage makes more positions of a frame."""
    count, prefix = _counter(config), r"vocoder\.hifi_gan\."
    blocks, positions = len(config.resblock_kernel_sizes), 1
    operations = 2 * count(prefix + "conv_pre")
    for stage, rate in enumerate(config.upsample_rates):
        operations += 2 * positions * count(rf"{prefix}upsampler\.{stage}\.")
        positions *= rate
        mine = "|".join(str(stage * blocks + block) for block in range(blocks))
        operations += 2 * positions * count(rf"{prefix}resblocks\.({mine})\.")
    return operations + 2 * positions * count(prefix + "conv_post")
