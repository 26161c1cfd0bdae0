"""Bidirectional attention over packed segments: softmax(q · kᵀ / sqrt(d)) · v within each segment.

    q, k, v [total, heads, d], cu_seqlens int32 [n + 1]  →  [total, heads, d]

`valid` int32 [n] bounds the keys of each segment: tokens from valid[i] on are queries and not keys.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F

from seamless_kernels.config import config_for
from seamless_kernels.dispatch import backend_for
from seamless_kernels.flash import (
    HEAD_DIMS,
    ONE_CHUNK,
    attend_unmasked_tiles,
    locate_tile,
    max_tiles,
    online_softmax_update,
)
from seamless_kernels.jit import jit, tl
from seamless_kernels.layout import unit_stride
from seamless_kernels.precision import compute_dtype


def reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor, valid: torch.Tensor | None = None
) -> torch.Tensor:
    # Segment by segment: the shapes of every product depend on the segment alone, and so do its bits.
    bounds = cu_seqlens.tolist()
    keys = valid.tolist() if valid is not None else [end - start for start, end in pairwise(bounds)]
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    q, k, v = (tensor.to(compute_dtype(tensor)) for tensor in (q, k, v))
    for (start, end), count in zip(pairwise(bounds), keys, strict=False):
        # Copies give every segment the same alignment, on which the bits of BLAS kernels may depend.
        seg_q = q[start:end].transpose(0, 1).contiguous()  # [heads, tokens, d]
        seg_k = k[start : start + count].transpose(0, 1).contiguous()
        seg_v = v[start : start + count].transpose(0, 1).contiguous()
        out[start:end] = F.scaled_dot_product_attention(seg_q[None], seg_k[None], seg_v[None])[0].transpose(0, 1)
    return out


@jit(do_not_specialize=["segments"])
def _kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    cu_seqlens_ptr,
    valid_ptr,
    segments,
    stride_qm,
    stride_qh,
    stride_kn,
    stride_kh,
    stride_vn,
    stride_vh,
    scale,
    CHUNK: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HAS_VALID: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # Heads first: programs that run together read whole tokens.
    head = tl.program_id(0) % HEADS
    segment, tile = locate_tile(cu_seqlens_ptr, segments, tl.program_id(0) // HEADS, CHUNK, BLOCK_M)
    start = tl.load(cu_seqlens_ptr + segment)
    length = tl.load(cu_seqlens_ptr + segment + 1) - start
    start = start.to(tl.int64)
    start_m = tile * BLOCK_M
    if start_m >= length:
        return
    keys = tl.load(valid_ptr + segment).to(tl.int32) if HAS_VALID else length
    offs_m = start_m + tl.arange(0, BLOCK_M)
    offs_d = tl.arange(0, HEAD_DIM)
    m_mask = (offs_m < length)[:, None]
    q_ptrs = q_ptr + head * stride_qh + (start + offs_m)[:, None] * stride_qm + offs_d[None, :]
    q = tl.load(q_ptrs, mask=m_mask, other=0.0)
    k_ptr += head * stride_kh + start * stride_kn
    v_ptr += head * stride_vh + start * stride_vn
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    l_i = tl.zeros([BLOCK_M], tl.float32)
    m_i = tl.full([BLOCK_M], float("-inf"), tl.float32)
    no_bias = tl.zeros([BLOCK_M], tl.float32)

    full_tiles = keys // BLOCK_N
    acc, l_i, m_i = attend_unmasked_tiles(
        acc,
        l_i,
        m_i,
        q,
        k_ptr,
        v_ptr,
        stride_kn,
        stride_vn,
        0,
        full_tiles,
        0,
        0,
        no_bias,
        no_bias,
        scale,
        HEAD_DIM,
        BLOCK_N,
    )
    for start_n in tl.range(full_tiles * BLOCK_N, keys, BLOCK_N, num_stages=1):  # one iteration at most
        offs_n = start_n + tl.arange(0, BLOCK_N)
        n_mask = (offs_n < keys)[:, None]  # of V too: 0 · NaN is NaN
        k = tl.load(k_ptr + offs_n.to(tl.int64)[:, None] * stride_kn + offs_d[None, :], mask=n_mask, other=0.0)
        v = tl.load(v_ptr + offs_n.to(tl.int64)[:, None] * stride_vn + offs_d[None, :], mask=n_mask, other=0.0)
        qk = tl.dot(q, tl.trans(k), input_precision="ieee")
        qk += tl.where(offs_n < keys, 0.0, float("-inf"))[None, :]
        acc, l_i, m_i = online_softmax_update(acc, l_i, m_i, qk, scale, no_bias, v)
    out = acc / tl.where(l_i == 0.0, 1.0, l_i)[:, None]  # a segment without keys gives zeros
    out_ptrs = out_ptr + head * HEAD_DIM + (start + offs_m)[:, None] * (HEADS * HEAD_DIM) + offs_d[None, :]
    tl.store(out_ptrs, out.to(out_ptr.dtype.element_ty), mask=m_mask)


def _triton(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor, valid: torch.Tensor | None = None
) -> torch.Tensor:
    total, heads, dim = q.shape
    q, k, v = unit_stride(q), unit_stride(k), unit_stride(v)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    config = config_for("attention", (dim,), q.dtype, q.device)
    segments = len(cu_seqlens) - 1
    tiles = max_tiles(total, segments, config["BLOCK_M"], ONE_CHUNK)
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
            HEAD_DIM=dim,
            HAS_VALID=valid is not None,
            **config,
        )
    return out


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor, valid: torch.Tensor | None = None
) -> torch.Tensor:
    """softmax(q · kᵀ / sqrt(d)) · v within each segment, [total, heads, d]; zeros where a segment has no keys.

    q, k, v may be views: they are copied if their last stride is not 1.
    """
    name = backend_for(q.device, IMPLS)
    if name == "triton" and q.shape[-1] not in HEAD_DIMS:
        name = "torch"
    return IMPLS[name](q, k, v, cu_seqlens, valid)


IMPLS = {"torch": reference, "triton": _triton}
