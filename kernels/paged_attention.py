"""Decode attention: one query per row, keys and values scattered over the slots of a pool.

    o[r] = softmax(q[r] · K_tᵀ / sqrt(d)) · V_t,   K_t, V_t = the pool at slot_table[t, :lengths[t]]
    q [rows, heads, d], k_pool, v_pool [slots, heads, d], slot_table int32 [tables, width], lengths int32 [tables]

`self_attention`: a table per row. `cross_attention`: a table per request, which serves rows cu_rows[t]:cu_rows[t + 1],
so keys and values are read once however many beams look at them. Slots past `lengths` are never read.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from seamless_kernels.dispatch import backend_for


def self_attention(
    q: torch.Tensor, k_pool: torch.Tensor, v_pool: torch.Tensor, slot_table: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """[rows, heads, d]; slot_table [rows, width], lengths [rows] at least 1."""
    return IMPLS[backend_for(q, IMPLS)](q, k_pool, v_pool, slot_table, lengths, None)


def cross_attention(
    q: torch.Tensor,
    k_pool: torch.Tensor,
    v_pool: torch.Tensor,
    slot_table: torch.Tensor,
    lengths: torch.Tensor,
    cu_rows: torch.Tensor,
) -> torch.Tensor:
    """[rows, heads, d]; slot_table [requests, width], lengths [requests], cu_rows int32 [requests + 1]."""
    return IMPLS[backend_for(q, IMPLS)](q, k_pool, v_pool, slot_table, lengths, cu_rows)


def reference(
    q: torch.Tensor,
    k_pool: torch.Tensor,
    v_pool: torch.Tensor,
    slot_table: torch.Tensor,
    lengths: torch.Tensor,
    cu_rows: torch.Tensor | None,
) -> torch.Tensor:
    if cu_rows is None:
        return _reference_self(q, k_pool, v_pool, slot_table, lengths)
    return _reference_cross(q, k_pool, v_pool, slot_table, lengths, cu_rows)


def _reference_self(
    q: torch.Tensor, k_pool: torch.Tensor, v_pool: torch.Tensor, slot_table: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    out = torch.empty_like(q)
    scale = 1.0 / math.sqrt(q.shape[-1])
    # Rows of equal length go together. Multiply-and-sum, because a batched product is not the same in every batch.
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero()[:, 0]
        slots = slot_table[rows, :length].flatten().long()
        k = k_pool.index_select(0, slots).view(len(rows), length, *q.shape[1:]).float()
        v = v_pool.index_select(0, slots).view(len(rows), length, *q.shape[1:]).float()
        score = (q[rows, None].float() * k).sum(-1) * scale  # [rows, length, heads]
        out[rows] = (torch.softmax(score, dim=1)[..., None] * v).sum(1).to(q.dtype)
    return out


def _reference_cross(
    q: torch.Tensor,
    k_pool: torch.Tensor,
    v_pool: torch.Tensor,
    slot_table: torch.Tensor,
    lengths: torch.Tensor,
    cu_rows: torch.Tensor,
) -> torch.Tensor:
    out = torch.empty_like(q)
    bounds = cu_rows.tolist()
    for table, length in enumerate(lengths.tolist()):
        rows = slice(bounds[table], bounds[table + 1])
        slots = slot_table[table, :length]
        k = k_pool.index_select(0, slots).transpose(0, 1)  # [heads, length, d]
        v = v_pool.index_select(0, slots).transpose(0, 1)
        queries = q[rows].transpose(0, 1).contiguous()  # [heads, beams, d]
        out[rows] = F.scaled_dot_product_attention(queries[None], k[None], v[None])[0].transpose(0, 1)
    return out


IMPLS = {"torch": reference}
