"""Operations that only bytes bind: layer_norm, kv_cache, top_candidates, fbank."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.kernels.case import DIM, HEAD_DIM, HEADS, MODEL, Case, Setup
from seamless_kernels import fbank, kv_cache, layer_norm
from seamless_kernels.top_candidates import top_candidates

_SLOTS = 100_000  # 205 MB of keys in 16 bit: no cache holds them
_CLIP = 10 * MODEL.sampling_rate


def layer_norm_cases(setup: Setup) -> Iterator[Case]:
    """After a scaled residual, in decode steps of 1 and 64 requests with 5 beams, in encoder passes.

    8 operations an element. Least bytes: x and residual read, y and their sum written.
    """
    options = {"weight": setup.randn(DIM), "bias": setup.randn(DIM), "scale": 0.5}
    for tokens in setup.pick((5, 320), (5, 320, 1280, 16_000, 128_000)):
        found = {
            "ours": lambda x, residual: layer_norm.add_layer_norm(x, residual=residual, **options),
            "torch": lambda x, residual: layer_norm.reference(x, residual=residual, **options),
        }
        inputs, elements = partial(setup.randns, 2, tokens, DIM), 1.0 * tokens * DIM
        yield Case(f"{tokens} × {DIM}", inputs, found, 8 * elements, 4 * elements * setup.dtype.itemsize)


def kv_cache_cases(setup: Setup) -> Iterator[Case]:
    """The keys and values of decode steps and of an encoder pass. Least bytes: both read and written, slots read."""
    pools = [setup.randn(_SLOTS // setup.pick(20, 1), HEADS, HEAD_DIM) for _ in "kv"]

    def inputs(tokens: int) -> tuple[Tensor, ...]:
        keys_values = setup.randn(tokens, 2, HEADS, HEAD_DIM).unbind(1)
        return *keys_values, *pools, torch.randperm(len(pools[0]), device=setup.device)[:tokens]

    for tokens in setup.pick((5, 320), (5, 320, 1280, 16_000)):
        found = {"ours": kv_cache.store_kv, "torch": kv_cache.reference}
        least_bytes = tokens * (4.0 * DIM * setup.dtype.itemsize + 8)
        yield Case(f"{tokens} × {HEADS} × {HEAD_DIM}", partial(inputs, tokens), found, 0.0, least_bytes)


def top_candidates_cases(setup: Setup) -> Iterator[Case]:
    """The best of float32 logits: greedy, 5 beams, and as many beams as there may be. 4 operations a word."""
    for queries, count in setup.pick([(5, 10)], [(1, 2), (5, 10), (40, 10), (256, 2), (256, 10), (64, 128)]):
        found = {
            "ours": lambda logits, count=count: top_candidates(logits, count),
            "torch": lambda logits, count=count: torch.log_softmax(logits, dim=-1).topk(count),
        }
        inputs, size = partial(setup.randns, 1, queries, MODEL.vocab_size, dtype=torch.float32), 4.0 * MODEL.vocab_size
        yield Case(f"{queries} queries, best {count}", inputs, found, queries * size, queries * size)


def fbank_cases(setup: Setup) -> Iterator[Case]:
    """Clips of 10 seconds, float32: one, and as many as encoder passes take.

    A real transform of 512 points and 80 filters: about 14,000 operations a frame. Least bytes: samples read, features
    written. Both are far below the time it takes, which goes to launches and to passes over float64 frames.
    """
    for clips in setup.pick((1,), (1, 16, 256)):
        bounds, frames = [_CLIP * i for i in range(clips + 1)], clips * fbank.frame_count(_CLIP)
        found = {
            "ours": lambda waveform, bounds=bounds: fbank.fbank(waveform, bounds),
            "torch": lambda waveform, bounds=bounds: fbank.reference(waveform, bounds),
        }
        inputs = partial(setup.randns, 1, clips * _CLIP, dtype=torch.float32, scale=0.1)
        least_bytes = 4.0 * (clips * _CLIP + fbank.NUM_MEL * frames)
        yield Case(f"{clips} × 10 s", inputs, found, 14_000.0 * frames, least_bytes)
