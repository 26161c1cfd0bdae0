"""Write the keys and values of a step to their slots.

k, v [rows, heads, d], slots int64 [rows]  →  k_pool[slots] = k, v_pool[slots] = v   ([num_slots, heads, d])
"""

from __future__ import annotations

import torch

from seamless_kernels.config import config_for
from seamless_kernels.dispatch import backend_for
from seamless_kernels.jit import jit, tl, triton


def reference(
    k: torch.Tensor, v: torch.Tensor, k_pool: torch.Tensor, v_pool: torch.Tensor, slots: torch.Tensor
) -> None:
    k_pool.index_copy_(0, slots, k)
    v_pool.index_copy_(0, slots, v)


@jit(do_not_specialize=["rows"])
def _kernel(
    k_ptr,
    v_ptr,
    k_pool,
    v_pool,
    slots,
    rows,
    k_stride,
    v_stride,
    pool_stride,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < WIDTH)[None, :]
    slot = tl.load(slots + row, mask=row < rows, other=0).to(tl.int64)
    target = slot[:, None] * pool_stride + column[None, :]
    row = row.to(tl.int64)[:, None]
    k = tl.load(k_ptr + row * k_stride + column[None, :], mask=inside)
    v = tl.load(v_ptr + row * v_stride + column[None, :], mask=inside)
    tl.store(k_pool + target, k, mask=inside)
    tl.store(v_pool + target, v, mask=inside)


def _triton(k: torch.Tensor, v: torch.Tensor, k_pool: torch.Tensor, v_pool: torch.Tensor, slots: torch.Tensor) -> None:
    rows, width = k.shape[0], k.shape[1] * k.shape[2]
    k, v = _rows(k), _rows(v)
    if not (_is_pool(k_pool) and _is_pool(v_pool) and k_pool.stride() == v_pool.stride()):
        raise ValueError("pools of keys and values have slots of [heads, d] without gaps, as far apart in both")
    if rows:
        config = config_for("kv_cache", (width,), k.dtype, k.device)
        _kernel[(triton.cdiv(rows, config["ROWS"]),)](
            k,
            v,
            k_pool,
            v_pool,
            slots,
            rows,
            k.stride(0),
            v.stride(0),
            k_pool.stride(0),
            WIDTH=width,
            COLUMNS=triton.next_power_of_2(width),
            **config,
        )


def _is_pool(pool: torch.Tensor) -> bool:
    return pool.stride(2) == 1 and pool.stride(1) == pool.shape[2]


def _rows(x: torch.Tensor) -> torch.Tensor:
    """x [rows, heads, d] with each row in one piece; rows may be any distance apart."""
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()


def store_kv(k: torch.Tensor, v: torch.Tensor, k_pool: torch.Tensor, v_pool: torch.Tensor, slots: torch.Tensor) -> None:
    """What a slot that appears twice then holds is one of its rows or a mixture: padding may share a slot."""
    IMPLS[backend_for(k.device, IMPLS)](k, v, k_pool, v_pool, slots)


IMPLS = {"torch": reference, "triton": _triton}
