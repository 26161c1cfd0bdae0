"""`seamless-engine selftest`: checks every operation on this machine, with random numbers and no model.

The sizes are those of v2-large, from one row to 400, in every dtype. An operation *agrees* if it is as near to its
formula in float64 as its roundings allow. It is *batch-invariant* if a row, or a segment, has the same bits alone as
among others.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F

from seamless_kernels import (
    attention,
    conformer_conv,
    conv1d,
    conv_transpose1d,
    layer_norm,
    linear,
    paged_attention,
    rel_attention,
    residual_block,
    top_candidates,
)
from seamless_kernels.dispatch import backend_for
from seamless_kernels.int8 import quantize_rows
from seamless_kernels.precision import rounding_error

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
COUNTS = (1, 2, 3, 5, 8, 13, 16, 17, 31, 33, 64, 100, 167, 204, 255, 320, 400)  # rows of a product
LENGTHS = (1, 33, 7, 167, 64, 100)  # of the segments of a pass
HEADS, HEAD_DIM = 16, 64
# (out, in, activation) of the products of v2-large.
PRODUCTS: tuple[tuple[int, int, Any], ...] = (
    (1024, 160, None),
    (1024, 1024, None),
    (3072, 1024, None),
    (2048, 1024, "glu"),
    (4096, 1024, "silu"),
    (1024, 4096, None),
    (8192, 1024, "relu"),
    (1024, 8192, None),
)
EPILOGUE = 8  # roundings of a product after its sum
PAIRED = 4  # roundings of a convolution on a CPU for each of the formula: it computes two rows at a time


@dataclass(frozen=True)
class Outcome:
    """The result for one operation in one dtype. problem: None if it agrees and is batch-invariant."""

    operation: str
    dtype: torch.dtype
    implementation: str
    problem: str | None


def run(device: torch.device) -> Iterator[Outcome]:
    """One Outcome after another; about twenty seconds on two cores. An error that a check meets is its problem."""
    for name, check in CHECKS.items():
        module = importlib.import_module(f"seamless_kernels.{name.split()[0]}")
        impls = module.INT8_IMPLS if name == "linear int8" else module.IMPLS
        for dtype in DTYPES if name != "top_candidates" else DTYPES[:1]:
            implementation = backend_for(device, impls)
            try:
                with torch.inference_mode():
                    problem = check(device, dtype)
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
            yield Outcome(name, dtype, implementation, problem)


def _normal(*shape: int, device: torch.device, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float32).to(device, dtype)


def _disagreement(
    out: torch.Tensor, exact: torch.Tensor, dtype: torch.dtype, terms: int, narrow: int = 0
) -> str | None:
    if out.dtype != dtype:
        return f"the result is {out.dtype}, not {dtype}"
    error, allowed = (out.double() - exact).abs(), rounding_error(exact, dtype, terms, narrow=narrow)
    wrong = ~(error <= allowed)
    if not wrong.any():
        return None
    worst = (error / allowed).nan_to_num(nan=float("inf")).max().item()
    return f"{int(wrong.sum())} of {wrong.numel()} numbers are wrong, by up to {worst:.3g} times what roundings explain"


def _products(device: torch.device, dtype: torch.dtype) -> str | None:
    for out, inner, activation in PRODUCTS:
        x = _normal(max(COUNTS), inner, device=device, dtype=dtype)
        weight = _normal(out, inner, device=device, dtype=dtype, seed=1) * inner**-0.5
        bias = _normal(out, device=device, dtype=dtype, seed=2)
        exact = _activated(F.linear(x.double(), weight.double(), bias.double()), activation)
        packed = linear.pack_weight(weight)
        call = partial(linear.linear, weight=packed, bias=bias, activation=activation)
        problem = _rows(f"[{out}, {inner}]", x, call, exact, inner)
        if problem:
            return problem
    return None


def _products_in_8_bits(device: torch.device, dtype: torch.dtype) -> str | None:
    for out, inner, activation in PRODUCTS[1:6]:
        x = _normal(max(COUNTS), inner, device=device, dtype=dtype)
        weight = _normal(out, inner, device=device, dtype=dtype, seed=1) * inner**-0.5
        quantized = [values.double() * scale[:, None].double() for values, scale in map(quantize_rows, (x, weight))]
        exact = _activated(F.linear(*quantized), activation)
        packed = linear.pack_weight_int8(weight)
        call = partial(linear.linear, weight=packed, activation=activation)
        problem = _rows(f"[{out}, {inner}]", x, call, exact, 0)
        if problem:
            return problem
    return None


def _activated(y: torch.Tensor, activation: str | None) -> torch.Tensor:
    return {None: lambda y: y, "relu": F.relu, "silu": F.silu, "glu": F.glu}[activation](y)


def _layer_norms(device: torch.device, dtype: torch.dtype) -> str | None:
    x, weight, bias = (_normal(*shape, device=device, dtype=dtype) for shape in ((max(COUNTS), 1024), (1024,), (1024,)))
    exact = F.layer_norm(x.double(), (1024,), weight.double(), bias.double())
    return _rows("[1024]", x, lambda x: layer_norm.layer_norm(x, weight, bias), exact, 1024)


def _rows(
    dims: str, x: torch.Tensor, call: Callable[[torch.Tensor], torch.Tensor], exact: torch.Tensor, terms: int
) -> str | None:
    """All rows are compared with `exact`, then the first and the last few alone with the same rows among all."""
    together = call(x)
    problem = _disagreement(together, exact, x.dtype, terms + EPILOGUE)
    if problem:
        return f"{dims}: {problem}"
    for count in COUNTS:
        for rows in (slice(0, count), slice(len(x) - count, len(x))):
            differ = (call(x[rows].clone()) != together[rows]).any(1)
            if differ.any():
                return f"{dims}: {int(differ.sum())} of {count} rows have other bits than among {len(x)}"
    return None


def _by_segment(
    call: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    exact: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    terms: int,
    narrow: int = 1,
    growth: int = 1,
) -> str | None:
    """All segments of x [Σ LENGTHS, …] are compared with `exact`, then each alone with itself among all.

    call, exact: x, cu_seqlens, valid → `growth` rows for each row of x.
    """
    parts = x.split(list(LENGTHS))
    packed = call(x, *_bounds(LENGTHS, x.device))
    problem = _disagreement(packed, exact(x.double(), *_bounds(LENGTHS, x.device)), x.dtype, terms, narrow)
    if problem:
        return problem
    for part, together in zip(parts, packed.split([growth * n for n in LENGTHS]), strict=True):
        if not torch.equal(call(part.clone(), *_bounds([len(part)], x.device)), together):
            return f"a segment of {len(part)} rows has other bits alone than among {len(parts)}"
    return None


def _bounds(lengths: Sequence[int], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    cu_seqlens = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
    return cu_seqlens, torch.tensor(lengths, dtype=torch.int32, device=device)


def _attention(device: torch.device, dtype: torch.dtype) -> str | None:
    qkv = _normal(sum(LENGTHS), 3, HEADS, HEAD_DIM, device=device, dtype=dtype)
    return _by_segment(
        lambda x, bounds, valid: attention.attention(x[:, 0], x[:, 1], x[:, 2], bounds, valid),
        lambda x, bounds, valid: attention.reference(x[:, 0], x[:, 1], x[:, 2], bounds, valid),
        qkv,
        HEAD_DIM + max(LENGTHS),
    )


def _rel_attention(device: torch.device, dtype: torch.dtype) -> str | None:
    qkv = _normal(sum(LENGTHS), 3, HEADS, HEAD_DIM, device=device, dtype=dtype)
    distances = _normal(73, HEAD_DIM, device=device, dtype=dtype, seed=1)
    options: dict[str, Any] = {"left": 64, "chunk_size": 20_000, "left_chunks": 128}
    return _by_segment(
        lambda x, *bounds: rel_attention.rel_attention(x[:, 0], x[:, 1], x[:, 2], distances, *bounds, **options),
        lambda x, *bounds: rel_attention.reference(x[:, 0], x[:, 1], x[:, 2], distances.double(), *bounds, **options),
        qkv,
        HEAD_DIM + max(LENGTHS),
        narrow=2,
    )


def _conformer_conv(device: torch.device, dtype: torch.dtype) -> str | None:
    x = _normal(sum(LENGTHS), 2048, device=device, dtype=dtype)
    taps = _normal(1024, 31, device=device, dtype=dtype, seed=1) * 31**-0.5
    norm = _normal(1024, device=device, dtype=dtype, seed=2), _normal(1024, device=device, dtype=dtype, seed=3)
    wide = [tensor.double() for tensor in (taps, *norm)]
    return _by_segment(
        lambda x, bounds, valid: conformer_conv.conformer_conv(x, taps, *norm, bounds, valid),
        lambda x, bounds, valid: conformer_conv.reference(x, wide[0], wide[1], wide[2], bounds, valid),
        x,
        31 + 1024,
    )


def _convolution(
    device: torch.device, dtype: torch.dtype, out: int, inner: int, taps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    weight = _normal(out, inner, taps, device=device, dtype=dtype, seed=1) * (inner * taps) ** -0.5
    return weight, _normal(out, device=device, dtype=dtype, seed=2)


def _conv1d(device: torch.device, dtype: torch.dtype) -> str | None:
    weight, bias = _convolution(device, dtype, 512, 512, 7)
    packed, plain = conv1d.pack_conv_weight(weight), weight.double()[:, :, None]
    return _by_segment(
        lambda x, bounds, _: conv1d.conv1d(x, packed, bias, bounds),
        lambda x, bounds, _: conv1d.reference(x, plain, bias.double(), bounds),
        _normal(sum(LENGTHS), 512, device=device, dtype=dtype),
        PAIRED * 512 * 7,
    )


def _conv_transpose1d(device: torch.device, dtype: torch.dtype) -> str | None:
    weight, bias = _convolution(device, dtype, 256, 512, 11)
    weight = weight.transpose(0, 1)
    options: dict[str, Any] = {"stride": 5, "leaky_slope": 0.1}
    packed, plain = (conv_transpose1d.pack_conv_transpose_weight(w) for w in (weight, weight.double()))
    return _by_segment(
        lambda x, bounds, _: conv_transpose1d.conv_transpose1d(x, packed, bias, bounds, **options),
        lambda x, bounds, _: conv_transpose1d.reference(x, plain, bias.double(), bounds, **options),
        _normal(sum(LENGTHS), 512, device=device, dtype=dtype),
        512 * 11,
        growth=5,
    )


def _residual_block(device: torch.device, dtype: torch.dtype) -> str | None:
    weights, biases = zip(*(_convolution(device, dtype, 64, 64, 7) for _ in range(6)), strict=True)
    packed, bias = residual_block.pack_residual_block(weights), torch.stack(biases)
    plain = torch.stack([weight.double()[:, :, None] for weight in weights])
    options: dict[str, Any] = {"dilations": (1, 3, 5), "leaky_slope": 0.1}
    return _by_segment(
        lambda x, bounds, _: residual_block.residual_block(x, packed, bias, bounds, **options),
        lambda x, bounds, _: residual_block.reference(x, plain, bias.double(), bounds, **options),
        _normal(sum(LENGTHS), 64, device=device, dtype=dtype),
        6 * PAIRED * 64 * 7,
        narrow=6,
    )


def _paged_attention(device: torch.device, dtype: torch.dtype) -> str | None:
    """Self-attention of beams that have LENGTHS keys, and cross-attention of five beams to each of these."""
    longest, beams = max(LENGTHS), 5
    k, v = (_normal(sum(LENGTHS), HEADS, HEAD_DIM, device=device, dtype=dtype, seed=seed) for seed in (1, 2))
    table = torch.zeros(len(LENGTHS), longest, dtype=torch.int32, device=device)
    order = torch.randperm(sum(LENGTHS), generator=torch.Generator().manual_seed(3)).int()
    for entries, slots in zip(table, order.split(list(LENGTHS)), strict=True):
        entries[: len(slots)] = slots.to(device)
    lengths = torch.tensor(LENGTHS, dtype=torch.int32, device=device)
    q = _normal(beams * len(LENGTHS), HEADS, HEAD_DIM, device=device, dtype=dtype)
    cu_rows = torch.arange(0, len(q) + 1, beams, dtype=torch.int32, device=device)
    together = paged_attention.cross_attention(q, k, v, table, lengths, cu_rows)
    first = paged_attention.self_attention(q[::beams].contiguous(), k, v, table, lengths)
    for i, length in enumerate(LENGTHS):
        keys, values = (pool[table[i, :length].long()].double() for pool in (k, v))
        score = torch.einsum("bhd,lhd->bhl", q[i * beams : i * beams + beams].double(), keys) * HEAD_DIM**-0.5
        exact = torch.einsum("bhl,lhd->bhd", score.softmax(-1), values)
        pair = (together[i * beams : i * beams + beams], exact), (first[i : i + 1], exact[:1])
        for out, truth in pair:
            problem = _disagreement(out, truth, dtype, HEAD_DIM + length, 1)
            if problem:
                return f"{length} keys: {problem}"
        own, bounds = (table[i : i + 1], lengths[i : i + 1]), cu_rows[:2]
        alone = paged_attention.cross_attention(q[i * beams : i * beams + beams].clone(), k, v, *own, bounds)
        one = paged_attention.self_attention(q[i * beams : i * beams + 1].clone(), k, v, *own)
        if not (torch.equal(alone, pair[0][0]) and torch.equal(one, pair[1][0])):
            return f"a request with {length} keys has other bits alone than among {len(LENGTHS)}"
    return None


def _top_candidates(device: torch.device, dtype: torch.dtype) -> str | None:
    logits = 5.0 * _normal(9, 256_102, device=device, dtype=dtype)
    log_probs, tokens = top_candidates.top_candidates(logits, 10)
    order = logits.sort(dim=-1, descending=True, stable=True).indices[:, :10]
    if not torch.equal(tokens, order):
        return "other tokens than those of a stable sort"
    exact = logits.double().log_softmax(-1).gather(1, tokens)
    problem = _disagreement(log_probs, exact, torch.float32, logits.shape[1])
    if problem:
        return problem
    alone = [top_candidates.top_candidates(row[None].clone(), 10)[0] for row in logits]
    return None if torch.equal(torch.cat(alone), log_probs) else "a beam has other bits alone than among 9"


CHECKS: dict[str, Callable[[torch.device, torch.dtype], str | None]] = {
    "linear": _products,
    "linear int8": _products_in_8_bits,
    "layer_norm": _layer_norms,
    "attention": _attention,
    "rel_attention": _rel_attention,
    "conformer_conv": _conformer_conv,
    "conv1d": _conv1d,
    "conv_transpose1d": _conv_transpose1d,
    "residual_block": _residual_block,
    "paged_attention": _paged_attention,
    "top_candidates": _top_candidates,
}
