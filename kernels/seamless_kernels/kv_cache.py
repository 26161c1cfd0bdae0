"""Write the keys and values of a step to their slots.

k, v [tokens, heads, d], slot_mapping int64 [tokens]  →  k_pool[slot_mapping] = k, v_pool[slot_mapping] = v
([num_slots, heads, d])
"""

from __future__ import annotations

import torch

from seamless_kernels.config import config_for
from seamless_kernels.dispatch import backend_for
from seamless_kernels.jit import jit, tl, triton


def reference(
    k: torch.Tensor, v: torch.Tensor, k_pool: torch.Tensor, v_pool: torch.Tensor, slot_mapping: torch.Tensor
) -> None:
    k_pool.index_copy_(0, slot_mapping, k)
    v_pool.index_copy_(0, slot_mapping, v)


@jit(do_not_specialize=["tokens"])
def _kernel(
    k_ptr,
    v_ptr,
    k_pool_ptr,
    v_pool_ptr,
    slot_mapping_ptr,
    tokens,
    stride_km,
    stride_vm,
    stride_slot,
    N: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ROWS: tl.constexpr,
):
    offs_m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    offs_n = tl.arange(0, BLOCK_N)
    mask = (offs_m < tokens)[:, None] & (offs_n < N)[None, :]
    slot = tl.load(slot_mapping_ptr + offs_m, mask=offs_m < tokens, other=0).to(tl.int64)
    target = slot[:, None] * stride_slot + offs_n[None, :]
    offs_m = offs_m.to(tl.int64)[:, None]
    k = tl.load(k_ptr + offs_m * stride_km + offs_n[None, :], mask=mask)
    v = tl.load(v_ptr + offs_m * stride_vm + offs_n[None, :], mask=mask)
    tl.store(k_pool_ptr + target, k, mask=mask)
    tl.store(v_pool_ptr + target, v, mask=mask)


def _triton(
    k: torch.Tensor, v: torch.Tensor, k_pool: torch.Tensor, v_pool: torch.Tensor, slot_mapping: torch.Tensor
) -> None:
    tokens, n = k.shape[0], k.shape[1] * k.shape[2]
    k, v = (x if _heads_contiguous(x) else x.contiguous() for x in (k, v))
    if not (_heads_contiguous(k_pool) and _heads_contiguous(v_pool) and k_pool.stride() == v_pool.stride()):
        raise ValueError("both pools must have slots [heads, d] without gaps, at the same stride")
    if tokens:
        config = config_for("kv_cache", (n,), k.dtype, k.device)
        _kernel[(triton.cdiv(tokens, config["ROWS"]),)](
            k,
            v,
            k_pool,
            v_pool,
            slot_mapping,
            tokens,
            k.stride(0),
            v.stride(0),
            k_pool.stride(0),
            N=n,
            BLOCK_N=triton.next_power_of_2(n),
            **config,
        )


def _heads_contiguous(x: torch.Tensor) -> bool:
    """Whether the [heads, d] of each token or slot have no gaps; tokens may be any distance apart."""
    return x.stride(2) == 1 and x.stride(1) == x.shape[2]


def store_kv(
    k: torch.Tensor, v: torch.Tensor, k_pool: torch.Tensor, v_pool: torch.Tensor, slot_mapping: torch.Tensor
) -> None:
    """A slot that appears twice, as the dummy slot of padding does, then holds either token or a mixture of them."""
    IMPLS[backend_for(k.device, IMPLS)](k, v, k_pool, v_pool, slot_mapping)


IMPLS = {"torch": reference, "triton": _triton}
