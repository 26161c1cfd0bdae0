"""Write the keys and values of a step to their slots.

k, v [rows, heads, d], slots int64 [rows]  →  k_pool[slots] = k, v_pool[slots] = v   ([num_slots, heads, d])
"""

from __future__ import annotations

import torch

from seamless_kernels.dispatch import backend_for


def store_kv(k: torch.Tensor, v: torch.Tensor, k_pool: torch.Tensor, v_pool: torch.Tensor, slots: torch.Tensor) -> None:
    """No slot may appear twice."""
    IMPLS[backend_for(k, IMPLS)](k, v, k_pool, v_pool, slots)


def reference(
    k: torch.Tensor, v: torch.Tensor, k_pool: torch.Tensor, v_pool: torch.Tensor, slots: torch.Tensor
) -> None:
    k_pool.index_copy_(0, slots, k)
    v_pool.index_copy_(0, slots, v)


IMPLS = {"torch": reference}
