"""Results are batch-invariant: a request has the same bits in any batch, order, pool and pattern of arrival.

And without one of the rules that make them so, the same comparison fails.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from seamless_engine import DecodingParams, Engine, EngineConfig, Request, Result
from seamless_engine.config import INT8_MODULES
from seamless_engine.request import TASKS
from seamless_engine.search import processors
from seamless_kernels import linear, paged_attention
from seamless_kernels.linear_cpu import finish
from support.driven import all_same, answer
from support.parity import TEXTS, random_request

Checkpoint = Callable[..., Path]
# Products of the tiny checkpoints are too small to be split over threads or along their reduction.
LARGE = {
    "hidden_size": 256,
    "decoder_ffn_dim": 1024,
    "encoder_ffn_dim": 1024,
    "speech_encoder_intermediate_size": 512,
    "t2u_variance_predictor_embed_dim": 256,
}
ROOMY = EngineConfig(max_num_seqs=48, num_slots=3200)
TIGHT = EngineConfig(max_num_seqs=7, num_slots=480, max_encoder_tokens=60, max_synthesis_tokens=20)


def mixed(engine: Engine, seed: int) -> list[Request]:
    """Every task, one to five beams, and samples."""
    rng = random.Random(seed)
    languages = engine.languages("s2st")
    requests: list[Request] = []
    for task in TASKS * 2:
        requests.append(next(one for one in iter(lambda: random_request(rng, languages), None) if one.task == task))
    for count in (1, 3):
        params = DecodingParams(do_sample=True, num_return_sequences=count, seed=count, max_new_tokens=10)
        requests.append(Request("t2tt", "fra", text=TEXTS[count], src_lang="eng", params=params))
    return requests


def alone(engine: Engine, requests: list[Request]) -> list[Result]:
    return [answer(engine, [request])[0] for request in requests]


@pytest.mark.parametrize(
    "implementation,int8",
    [("", ()), ("torch", ()), ("", INT8_MODULES)],
    ids=["preferred", "torch", "8 bits"],
)
def test_generate_is_batch_invariant(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, implementation: str, int8: tuple[str, ...]
) -> None:
    monkeypatch.setenv("SEAMLESS_BACKEND", implementation)
    folder = checkpoint(0, **LARGE)
    roomy, tight = (
        Engine.from_pretrained(folder, device="cpu", options=replace(options, int8=int8)) for options in (ROOMY, TIGHT)
    )
    requests = mixed(roomy, 1)
    expected = alone(roomy, requests)
    assert not any(result.error for result in expected)
    rng = random.Random(2)
    for engine in (roomy, tight):
        order = rng.sample(range(len(requests)), len(requests))
        arrivals = [rng.randrange(15) for _ in requests]
        together = answer(engine, [requests[i] for i in order], arrivals=None if engine is roomy else arrivals)
        assert all_same(together, [expected[i] for i in order])
    streamed = {int(result.id): result for result in tight.stream(requests)}
    assert all_same([streamed[i] for i in range(len(requests))], expected)


def split_k_product(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    activation: Any = None,
    residual: torch.Tensor | None = None,
    scale: float = 1.0,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """`linear` that splits the reduction where rows are few, as a split-K product does to use more threads."""
    parts = 4 if len(x) < 8 else 1
    sums = [a.double() @ w.double().T for a, w in zip(x.chunk(parts, 1), weight.chunk(parts, 1), strict=True)]
    y = torch.stack([part.float() for part in sums]).sum(0)
    return finish(y if bias is None else y + bias, len(x), activation, residual, scale)


def attention_to_the_longest(
    q: torch.Tensor,
    k_pool: torch.Tensor,
    v_pool: torch.Tensor,
    slot_table: torch.Tensor,
    lengths: torch.Tensor,
    cu_rows: torch.Tensor | None,
    rows: torch.Tensor | None = None,
) -> torch.Tensor:
    """Decode attention of all queries in one product, padded to the longest and masked."""
    if cu_rows is not None:
        request = torch.repeat_interleave(torch.arange(len(lengths)), cu_rows.diff().long())
        slot_table, lengths = slot_table[request], lengths[request]
    elif rows is not None:
        slot_table = slot_table[rows.long()]
    longest = int(lengths.max())
    seen = torch.arange(longest) < lengths[:, None]
    slots = slot_table[:, :longest].long().masked_fill(~seen, 0)
    k, v = (pool[slots].transpose(1, 2).nan_to_num() for pool in (k_pool, v_pool))  # [rows, heads, longest, d]
    return F.scaled_dot_product_attention(q[:, :, None], k, v, attn_mask=seen[:, None, None])[:, :, 0]


def noise_by_position(
    seed_low: torch.Tensor, seed_high: torch.Tensor, step: torch.Tensor, stream: torch.Tensor, vocab: int
) -> torch.Tensor:
    """Noise from one generator for all queries of a step, in their order."""
    generator = torch.Generator().manual_seed(int(seed_low[0] + step[0]))
    return -torch.empty(len(stream), vocab).exponential_(generator=generator).log()


def depends_on_the_batch(engine: Engine, requests: list[Request]) -> bool:
    one_by_one, together = alone(engine, requests), answer(engine, requests)
    assert not any(result.error for result in one_by_one + together)
    return not all_same(one_by_one, together)


def engine_and_texts(checkpoint: Checkpoint) -> tuple[Engine, list[Request]]:
    """Requests whose results the test above has found to be batch-invariant."""
    engine = Engine.from_pretrained(checkpoint(0, **LARGE), device="cpu", options=ROOMY)
    return engine, [one for one in mixed(engine, 1) if one.task == "t2tt"]


@pytest.mark.parametrize(
    "owner,name,replacement",
    [
        (linear.IMPLS, "torch", split_k_product),
        (paged_attention.IMPLS, "torch", attention_to_the_longest),
        (processors, "gumbel", noise_by_position),
    ],
    ids=["products", "attention", "noise"],
)
def test_generate_is_not_batch_invariant_without_a_rule(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, replacement: Callable[..., Any]
) -> None:
    monkeypatch.setenv("SEAMLESS_BACKEND", "torch")
    engine, requests = engine_and_texts(checkpoint)
    (monkeypatch.setitem if isinstance(owner, dict) else monkeypatch.setattr)(owner, name, replacement)
    assert depends_on_the_batch(engine, requests)
