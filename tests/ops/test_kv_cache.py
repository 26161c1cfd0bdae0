"""store_kv: keys and values are copied to their slots, and nothing else is written."""

from __future__ import annotations

import pytest
import torch

from seamless_kernels.kv_cache import store_kv
from support.packed import DEVICE, DTYPES, normal

POOL = 50


def chosen(rows: int, seed: int = 0) -> torch.Tensor:
    """Different slots int64 [rows]."""
    return torch.randperm(POOL, generator=torch.Generator().manual_seed(seed))[:rows].to(DEVICE)


def pools(heads: int, dim: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return normal(POOL, heads, dim, dtype=dtype, seed=5), normal(POOL, heads, dim, dtype=dtype, seed=6)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows,heads,dim", [(0, 2, 16), (1, 2, 16), (5, 3, 8), (17, 1, 7), (50, 2, 64)])
def test_store_kv_writes_the_slots_and_nothing_else(rows: int, heads: int, dim: int, dtype: torch.dtype) -> None:
    k, v = normal(rows, heads, dim, dtype=dtype), normal(rows, heads, dim, dtype=dtype, seed=1)
    slots, (k_pool, v_pool) = chosen(rows), pools(heads, dim, dtype)
    others = torch.ones(POOL, dtype=torch.bool, device=DEVICE)
    others[slots] = False
    before = k_pool.clone(), v_pool.clone()
    store_kv(k, v, k_pool, v_pool, slots)
    for pool, given, old in zip((k_pool, v_pool), (k, v), before, strict=True):
        assert torch.equal(pool[slots], given)
        assert torch.equal(pool[others], old[others])


@pytest.mark.usefixtures("backend")
def test_store_kv_takes_views_of_one_product_and_of_all_layers() -> None:
    k, v = normal(9, 3, 2, 16)[:, 1:].unbind(1)
    layers, slots = normal(4, 2, POOL, 2, 16, seed=1), chosen(9)
    before = layers.clone()
    store_kv(k, v, layers[2, 0], layers[2, 1], slots)
    before[2, 0, slots], before[2, 1, slots] = k, v
    assert torch.equal(layers, before)


@pytest.mark.usefixtures("backend")
def test_store_kv_copies_heads_that_are_not_contiguous() -> None:
    k = normal(9, 16, 2).transpose(1, 2)
    k_pool, v_pool = pools(2, 16, torch.float32)
    store_kv(k, k, k_pool, v_pool, chosen(9))
    assert torch.equal(k_pool[chosen(9)], k) and torch.equal(v_pool[chosen(9)], k)


@pytest.mark.parametrize("backend", ["triton"], indirect=True)
def test_store_kv_refuses_pools_with_gaps(backend: str) -> None:
    wide = normal(POOL, 2, 32)
    with pytest.raises(ValueError, match="without gaps"):
        store_kv(normal(3, 2, 16), normal(3, 2, 16), wide[..., :16], wide[..., :16], chosen(3))
