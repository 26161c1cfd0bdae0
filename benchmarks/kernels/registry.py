"""Every operation that has a benchmark, with its shapes: seamless_kernels.<name>, tests/ops/test_<name>.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable

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
