"""Bidirectional attention over packed segments: softmax(q · kᵀ / sqrt(d)) · v within each segment.

    q, k, v [total, heads, d], cu_seqlens int32 [n + 1]  →  [total, heads, d]

`valid` int32 [n] bounds the keys of each segment: rows from valid[i] on exist as queries but nobody attends to them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from seamless_kernels.config import config_for
from seamless_kernels.dispatch import backend_for
from seamless_kernels.flash import (
    HEAD_DIMS,
    ONE_CHUNK,
    absorb,
    absorb_whole_tiles,
    locate,
    rows_of_heads,
    tiles_at_most,
)
from seamless_kernels.jit import jit, tl
from seamless_kernels.precision import compute_dtype


def reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor, valid: torch.Tensor | None = None
) -> torch.Tensor:
    # Segment by segment: the shapes of every product depend on the segment alone, and so do its bits.
    bounds = cu_seqlens.tolist()
    keys = (
        valid.tolist() if valid is not None else [end - start for start, end in zip(bounds, bounds[1:], strict=False)]
    )
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    q, k, v = (tensor.to(compute_dtype(tensor)) for tensor in (q, k, v))
    for start, end, count in zip(bounds, bounds[1:], keys, strict=False):
        # Copies put every segment at the same alignment, which BLAS kernels look at.
        rows = q[start:end].transpose(0, 1).contiguous()  # [heads, rows, d]
        past_k = k[start : start + count].transpose(0, 1).contiguous()
        past_v = v[start : start + count].transpose(0, 1).contiguous()
        out[start:end] = F.scaled_dot_product_attention(rows[None], past_k[None], past_v[None])[0].transpose(0, 1)
    return out


@jit(do_not_specialize=["segments"])
def _kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    cu_seqlens,
    valid,
    segments,
    q_row,
    q_head,
    k_row,
    k_head,
    v_row,
    v_head,
    scale,
    CHUNK: tl.constexpr,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BOUNDED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # Heads first: the programs that run together read whole rows of memory.
    head = tl.program_id(0) % HEADS
    segment, tile = locate(cu_seqlens, segments, tl.program_id(0) // HEADS, CHUNK, BLOCK_M)
    start = tl.load(cu_seqlens + segment)
    length = tl.load(cu_seqlens + segment + 1) - start
    start = start.to(tl.int64)
    first = tile * BLOCK_M
    if first >= length:
        return
    keys = tl.load(valid + segment).to(tl.int32) if BOUNDED else length
    rows = first + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, DIM)
    inside = (rows < length)[:, None]
    q = tl.load(q_ptr + head * q_head + (start + rows)[:, None] * q_row + dims[None, :], mask=inside, other=0.0)
    k_ptr += head * k_head + start * k_row
    v_ptr += head * v_head + start * v_row
    acc = tl.zeros([BLOCK_M, DIM], tl.float32)
    mass = tl.zeros([BLOCK_M], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    none = tl.zeros([BLOCK_M], tl.float32)

    whole = keys // BLOCK_N
    acc, mass, top = absorb_whole_tiles(
        q, k_ptr, v_ptr, k_row, v_row, 0, whole, 0, 0, none, none, scale, acc, mass, top, DIM, BLOCK_N
    )
    for at in tl.range(whole * BLOCK_N, keys, BLOCK_N, num_stages=1):  # once, or not at all
        key = at + tl.arange(0, BLOCK_N)
        seen = (key < keys)[:, None]  # of V too: 0 · NaN is NaN
        k = tl.load(k_ptr + key.to(tl.int64)[:, None] * k_row + dims[None, :], mask=seen, other=0.0)
        v = tl.load(v_ptr + key.to(tl.int64)[:, None] * v_row + dims[None, :], mask=seen, other=0.0)
        raw = tl.dot(q, tl.trans(k), input_precision="ieee")
        raw += tl.where(key < keys, 0.0, float("-inf"))[None, :]
        acc, mass, top = absorb(raw, scale, none, v, acc, mass, top)
    out = acc / tl.where(mass == 0.0, 1.0, mass)[:, None]  # no keys, no result: zeros
    out_rows = out_ptr + head * DIM + (start + rows)[:, None] * (HEADS * DIM) + dims[None, :]
    tl.store(out_rows, out.to(out_ptr.dtype.element_ty), mask=inside)


def _triton(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor, valid: torch.Tensor | None = None
) -> torch.Tensor:
    total, heads, dim = q.shape
    q, k, v = rows_of_heads(q), rows_of_heads(k), rows_of_heads(v)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    config = config_for("attention", (dim,), q.dtype, q.device)
    segments = len(cu_seqlens) - 1
    tiles = tiles_at_most(total, segments, config["BLOCK_M"], ONE_CHUNK)
    if total:
        _kernel[(heads * tiles,)](
            q,
            k,
            v,
            out,
            cu_seqlens,
            valid if valid is not None else cu_seqlens,
            segments,
            *q.stride()[:2],
            *k.stride()[:2],
            *v.stride()[:2],
            math.log2(math.e) / math.sqrt(dim),
            CHUNK=ONE_CHUNK,
            HEADS=heads,
            DIM=dim,
            BOUNDED=valid is not None,
            **config,
        )
    return out


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor, valid: torch.Tensor | None = None
) -> torch.Tensor:
    """softmax(q · kᵀ / sqrt(d)) · v within each segment, [total, heads, d]; zeros where a segment has no keys.

    q, k, v may be views: of their strides only the last must be 1, or they are copied.
    """
    name = backend_for(q.device, IMPLS)
    if name == "triton" and q.shape[-1] not in HEAD_DIMS:
        return reference(q, k, v, cu_seqlens, valid)
    return IMPLS[name](q, k, v, cu_seqlens, valid)


IMPLS = {"torch": reference, "triton": _triton}
