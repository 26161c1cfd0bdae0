"""Lengths of packed segments, and of the speech encoder's input and output. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from seamless_kernels.framing import frame_count

if TYPE_CHECKING:
    import torch

Count = TypeVar("Count", "int", "torch.Tensor")


def bounds_of(lengths: Sequence[int]) -> np.ndarray:
    """cu_seqlens int32 [n + 1] of the lengths of n segments."""
    return np.cumsum([0, *lengths], dtype=np.int32)


def packed_frames(num_samples: int) -> tuple[int, int]:
    """The frames of a clip in the packed batch, two frames of the filter bank in each, and how many of them are whole.

    They are as many, or the last one is not whole: an odd number of frames of the filter bank leaves half of it empty.
    """
    frames = frame_count(num_samples)
    return -(-frames // 2), frames // 2


def encoder_length(num_whole: Count, stride: int) -> Count:
    """The encoder states of a clip with so many whole frames, after an adapter of this stride."""
    return num_whole // stride + 1
