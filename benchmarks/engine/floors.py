"""The least time of each stage of requests: what the model must compute and read, over the machine's two ceilings.

A matrix product takes two operations for each weight and token, and reads each weight once. Attention takes four for
each pair of positions and channel; in a decode step it reads keys and values of every position once, those of the
source once for all beams. Every kind of work counts by the larger of its two times. Norms, convolutions of one
channel, characters, the front end, launches and the host count nothing: a floor, not a forecast.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.roofline import Ceilings
from seamless_engine.block_manager import PROMPT_LENGTH
from seamless_engine.config import ModelConfig
from seamless_engine.loading.tensor_table import UNIT_NAMES, tensor_shapes
from seamless_engine.models.lengths import encoder_length


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
        self.config, self.ceilings, self.element_size = config, ceilings, element_size
        self.sizes = {name: math.prod(s) for name, s in tensor_shapes(config).items() if len(s) > 1}
        self._cross, self._head = self._count(r"text_decoder\..*cross_attention\.[kv]_proj"), self._count(r"shared\.")
        self._decoder = self._count(r"text_decoder\.") - self._cross

    def of(self, works: Sequence[Work], num_beams: int) -> dict[str, float]:
        """Seconds of each stage, all requests at once; each decodes from the first step on until it has its tokens."""
        c, decode, lengths = self.config, 0.0, [self._encoder_length(work) for work in works]
        for step in range(max(work.new_tokens for work in works)):
            alive = [length for work, length in zip(works, lengths, strict=True) if work.new_tokens > step]
            decode += self.step(alive, PROMPT_LENGTH + step, num_beams)

        frames, tokens = [w.frames for w in works if w.frames], [w.tokens for w in works if w.tokens]
        clip, adapter = r"speech_encoder\.(?!adapter)(?!.*distance_embedding)", r"speech_encoder\.adapter\."
        relative = 2 * c.speech_encoder_layers * c.num_relative_positions * c.hidden_size * sum(frames)
        pairs = relative + self._pairs(c.speech_encoder_layers, frames)
        encode = self._products(
            {clip: sum(frames), adapter: sum(self._encoder_length(w) for w in works if w.frames)}, pairs
        )
        encode += self._products({r"text_encoder\.": sum(tokens)}, self._pairs(c.encoder_layers, tokens))
        encode += self._least(2 * self._cross * sum(lengths), self._cross)

        texts, units = [w.new_tokens + 1 for w in works if w.units], [w.units for w in works if w.units]
        encoder, decoder = (rf"t2u_model\.model\.{part}" for part in (r"encoder\.", r"decoder\.layers\."))
        read = {encoder: sum(texts), decoder: sum(units), re.escape(UNIT_NAMES[0]): sum(units)}
        pairs = self._pairs(c.t2u_encoder_layers, texts) + self._pairs(c.t2u_decoder_layers, units)
        vocoder = self._products({r"vocoder\.dur_predictor\.": sum(units)}) + self._samples(works)
        return {"encode": encode, "decode": decode, "t2u": self._products(read, pairs), "vocoder": vocoder}

    def step(self, encoder_lengths: Sequence[int], length: int, num_beams: int) -> float:
        """One decode step of requests whose beams have read `length` tokens."""
        c, beams = self.config, num_beams * len(encoder_lengths)
        position = c.decoder_layers * c.hidden_size  # of keys, and of values
        own, others = beams * length, sum(encoder_lengths)
        products = sum(self._least(2 * elements * beams, elements) for elements in (self._decoder, self._head))
        return products + self._least(4 * position * (own + num_beams * others), 2 * position * (own + others))

    def _samples(self, works: Sequence[Work]) -> float:
        """The vocoder's generator, every stage of which makes more positions of a frame."""
        prefix, positions = r"vocoder\.hifi_gan\.", sum(work.vocoder_frames for work in works)
        read, blocks = {prefix + "conv_pre": positions}, len(self.config.resblock_kernel_sizes)
        for stage, rate in enumerate(self.config.upsample_rates):
            read[rf"{prefix}upsampler\.{stage}\."] = positions
            positions *= rate
            mine = "|".join(str(stage * blocks + block) for block in range(blocks))
            read[rf"{prefix}resblocks\.({mine})\."] = positions
        return self._products({**read, prefix + "conv_post": positions})

    def _products(self, read: dict[str, int], attention: int = 0) -> float:
        """read: how many tokens the matrices and kernels are multiplied with whose names match."""
        counts = {pattern: self._count(pattern) for pattern in read}
        operations = attention + sum(2 * counts[pattern] * tokens for pattern, tokens in read.items())
        return self._least(operations, sum(counts.values()))

    def _count(self, pattern: str) -> int:
        return sum(size for name, size in self.sizes.items() if re.match(pattern, name))

    def _pairs(self, layers: int, lengths: Sequence[int]) -> int:
        return 4 * layers * self.config.hidden_size * sum(n * n for n in lengths)

    def _encoder_length(self, work: Work) -> int:
        return encoder_length(work.frames, self.config.adaptor_stride) if work.frames else work.tokens

    def _least(self, operations: float, elements: float) -> float:
        return self.ceilings.floor(operations, elements * self.element_size) if operations else 0.0
