"""What a candidate for the products of a decode step, with what stands around them, has to show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import torch

from benchmarks.kernels.case import DIM, MODEL
from seamless_kernels import kv_cache, layer_norm, linear
from seamless_kernels.config import config_for

MOST_ROWS = 64


class Norm(NamedTuple):
    """A layer norm of x, before the product."""

    weight: torch.Tensor  # [in]
    bias: torch.Tensor
    eps: float


class Cache(NamedTuple):
    """Where the second and last third of the columns are stored, as keys and values."""

    k_pool: torch.Tensor  # [slots, heads, d]
    v_pool: torch.Tensor
    slot_mapping: torch.Tensor  # int64 [rows]


def separate(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    norm: Norm | None = None,
    cache: Cache | None = None,
    **options: Any,
) -> torch.Tensor:
    """The same by the engine's kernels, the layer norm with four warps."""
    if norm is not None:
        config = config_for("layer_norm", (x.shape[1],), x.dtype, x.device) | {"num_warps": 4}
        with mock.patch.object(layer_norm, "config_for", lambda *_: config):
            x = layer_norm.IMPLS["triton"](x, *norm)[0]
    y = linear.IMPLS["triton"](x, weight, bias, **options)
    if cache is None:
        return y
    q, k, v = y.view(len(y), 3, *cache.k_pool.shape[1:]).unbind(1)
    kv_cache.IMPLS["triton"](k, v, *cache)
    return q.flatten(1)


def decoder_calls(
    device: torch.device, dtype: torch.dtype, rows: int, quick: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Arguments of `run` and `separate` for the products of a decoder layer, in their order. quick: with small dims."""
    dim, long = (64, 320) if quick else (DIM, MODEL.decoder_ffn_dim)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device).to(dtype)

    def product(outer: int, inner: int) -> dict[str, Any]:
        return {"x": normal(rows, inner), "weight": normal(outer, inner) / inner**0.5, "bias": normal(outer)}

    def pool() -> torch.Tensor:
        return torch.zeros(2 * rows, dim // 64, 64, dtype=dtype, device=device)

    norm = Norm(normal(dim), normal(dim), 1e-5)
    cache = Cache(pool(), pool(), torch.arange(rows, device=device).flip(0) * 2)
    yield "norm, q·k·v, store", {**product(3 * dim, dim), "norm": norm, "cache": cache}
    yield "out", {**product(dim, dim), "residual": normal(rows, dim)}
    yield "norm, cross q", {**product(dim, dim), "norm": norm}
    yield "cross out", {**product(dim, dim), "residual": normal(rows, dim)}
    yield "norm, fc1", {**product(long, dim), "norm": norm, "activation": "relu"}
    yield "fc2", {**product(dim, long), "residual": normal(rows, dim)}


def prove_decode_step(run: Callable[..., torch.Tensor], device: torch.device, quick: bool) -> str:
    """The bits of `separate` for any number of rows and any place of a row: those of the result and of the pools."""
    shown = 0
    for dtype in (torch.bfloat16, torch.float16):
        for name, call in decoder_calls(device, dtype, MOST_ROWS, quick):
            expected, pools = separate(**call), _written(call)
            for count in (1, 9) if quick else (1, 2, 5, 8, 9, 16, 40, 63, 64):
                for rows in (slice(0, count), slice(MOST_ROWS - count, None)):
                    own = call | {key: call[key][rows] for key in ("x", "residual") if key in call}
                    if "cache" in call:
                        own["cache"] = call["cache"]._replace(slot_mapping=call["cache"].slot_mapping[rows])
                    assert torch.equal(run(**own), expected[rows]), f"{name} in {dtype}: {count} rows"
                    for ours, found in zip(pools, _written(own), strict=True):
                        assert torch.equal(found, ours[rows]), f"{name} in {dtype}: stored for {count} rows"
                    shown += 1
    return f"{shown} results"


def _written(call: dict[str, Any]) -> list[torch.Tensor]:
    """What a call has stored to its slots, which are then zero again."""
    if "cache" not in call:
        return []
    k_pool, v_pool, slots = call["cache"]
    stored = [pool[slots].clone() for pool in (k_pool, v_pool)]
    assert all(
        pool.count_nonzero() == part.count_nonzero() for pool, part in zip((k_pool, v_pool), stored, strict=True)
    )
    k_pool.zero_()
    v_pool.zero_()
    return stored
