"""`chunk_length_s` of transformers' pipeline: a long clip, cut into pieces that are read one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from seamless_engine.errors import UsageError
from seamless_engine.hf.arguments import to_python
from seamless_kernels.fbank import SAMPLING_RATE


@dataclass(frozen=True)
class Chunking:
    """In samples at 16 kHz: the length of a piece, and what its neighbours read as well before and behind it."""

    length: int
    left: int
    right: int

    @classmethod
    def from_seconds(cls, length: Any, stride: Any) -> Chunking | None:
        """stride: seconds, or a pair (left, right); None is a sixth of the length, as in transformers. None for length
        None or 0. Raises UsageError."""
        length, stride = to_python(length), to_python(stride)
        if not length:
            return None
        sides = stride if isinstance(stride, list | tuple) else [stride, stride]
        if not all(_is_seconds(n) for n in (length, *sides) if n is not None) or len(sides) != 2:
            raise UsageError(f"chunk_length_s and stride_length_s are seconds, not {length!r} and {stride!r}")
        numbers = [length, *(length / 6 if n is None else n for n in sides)]
        samples, left, right = (round(seconds * SAMPLING_RATE) for seconds in numbers)
        if samples <= left + right:
            raise UsageError(f"chunk_length_s={length} must be longer than both strides together, {numbers[1:]}")
        return cls(samples, left, right)

    @property
    def overlaps(self) -> bool:
        return self.left + self.right > 0

    def cut(self, samples: torch.Tensor) -> list[torch.Tensor]:
        """Pieces of samples [n], the last one shorter; one piece for a clip that is no longer than that."""
        pieces = []
        for start in range(0, len(samples), self.length - self.left - self.right):
            piece = samples[start : start + self.length]
            if start == 0 or len(piece) > self.left:
                pieces.append(piece)
            if start + self.length >= len(samples):
                break
        return pieces


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
