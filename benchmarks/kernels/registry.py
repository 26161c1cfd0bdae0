"""Every operation that has a benchmark: seamless_kernels.<name>, tests/ops/test_<name>.py.

CASES: name → its shapes, from a Setup. TUNE: what may be chosen in configs.json, as tools/tune.py tries it. BLOCK_M of
linear is not: the kind of the matrix instruction depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.kernels import attention, convolutions, memory_bound, products
from benchmarks.kernels.case import Case, Setup

CASES: dict[str, Callable[[Setup], Iterable[Case]]] = {
    "linear": products.linear_cases,
    "linear_top_candidates": products.linear_top_candidates_cases,
    "attention": attention.attention_cases,
    "rel_attention": attention.rel_attention_cases,
    "paged_attention": attention.paged_attention_cases,
    "conformer_conv": convolutions.conformer_conv_cases,
    "conv1d": convolutions.conv1d_cases,
    "conv_transpose1d": convolutions.conv_transpose1d_cases,
    "residual_block": convolutions.residual_block_cases,
    "layer_norm": memory_bound.layer_norm_cases,
    "kv_cache": memory_bound.kv_cache_cases,
    "top_candidates": memory_bound.top_candidates_cases,
    "fbank": memory_bound.fbank_cases,
}

_BLOCKS = {"BLOCK_M": (64, 128), "BLOCK_N": (32, 64, 128), "num_stages": (2, 3, 4)}
_REL_BLOCKS = {"BLOCK_M": (64, 128), "BLOCK_N": (32, 64), "num_stages": (2, 3)}
_LINEAR_TILES = {1: (16, 32, 64, 128, 256), 2: (32, 64, 128, 256), 3: (4, 8), 4: (2, 3, 4, 5, 6)}
_HEAD_TILES = {1: (32, 64, 128), 2: (4, 8), 3: (2, 3, 4, 5)}
TUNE: dict[str, dict[str, Any]] = {
    "linear": {"PROGRAMS": (64, 96, 132, 192, 264), "TILES": _LINEAR_TILES},
    "linear_top_candidates": {"PROGRAMS": (132, 264, 396, 528), "TILES": _HEAD_TILES},
    "attention": {**_BLOCKS, "num_warps": (4, 8)},
    "rel_attention": {**_REL_BLOCKS, "BLOCK_E": (16, 32, 64), "num_warps": (4, 8)},
    "paged_attention": {"BLOCK": (32, 64, 128), "num_warps": (2, 4, 8), "num_stages": (1, 2, 3)},
    "conformer_conv": {"ROWS": (4, 8, 16), "num_warps": (8, 16)},
    "conv_transpose1d": _BLOCKS,
    "residual_block": {"PAIRS": (1, 3), "HEIGHT": (128, 256, 512, 1024), "PROGRAMS": (1, 2)},
    "layer_norm": {"num_warps": (1, 2, 4, 8)},
    "kv_cache": {"ROWS": (1, 2, 4), "num_warps": (1, 2, 4)},
    "top_candidates": {"TILE": (8, 16, 32, 64), "num_warps": (4, 8), "CHOICE_WARPS": (4, 8, 16)},
    "fbank": {"FRAMES": (2, 4, 8), "MEL_FRAMES": (4, 8, 16), "CLIP_FRAMES": (64, 128, 256), "num_warps": (4, 8)},
}
