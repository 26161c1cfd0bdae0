"""Decode attention: each query attends to keys and values that are scattered over the slots of a pool.

    o[r] = softmax(q[r] · K_tᵀ / sqrt(d)) · V_t,   K_t, V_t = the pool at slot_table[t, :lengths[t]]
    q [queries, heads, d], k_pool, v_pool [slots, heads, d], slot_table int32 [tables, width], lengths int32 [tables]

`self_attention`: a table for each query. `cross_attention`: a table for each request, shared by the queries
cu_queries[t] … cu_queries[t + 1] − 1, so that keys and values are read once for all beams. Slots past `lengths` are
never read.

The kernel splits the keys of a table into chunks of a fixed size, and a chunk into blocks, and computes for each the
maximum m, the sum l and the unnormalized result acc of a softmax in base 2. Chunks are combined in their order,

    (m, l, acc) + (m', l', acc') = (M, l·2^(m−M) + l'·2^(m'−M), acc·2^(m−M) + acc'·2^(m'−M)),   M = max(m, m'),

by the program that computed them or, where few programs would leave the GPU idle, by a second kernel (split-KV, as in
FlashDecoding), with the same bits.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from seamless_kernels.config import config_for, num_sms
from seamless_kernels.dispatch import backend_for
from seamless_kernels.jit import jit, tl, triton
from seamless_kernels.native import csrc

_BEAMS = 16  # queries of a tile of cross-attention: the least rows of a matrix instruction


def reference(
    q: torch.Tensor,
    k_pool: torch.Tensor,
    v_pool: torch.Tensor,
    slot_table: torch.Tensor,
    lengths: torch.Tensor,
    cu_queries: torch.Tensor | None,
    table_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    slot_table = slot_table if table_ids is None else slot_table[table_ids.long()]
    if cu_queries is None:
        return _reference_self(q, k_pool, v_pool, slot_table, lengths)
    return _reference_cross(q, k_pool, v_pool, slot_table, lengths, cu_queries)


def _reference_self(
    q: torch.Tensor, k_pool: torch.Tensor, v_pool: torch.Tensor, slot_table: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    out = torch.empty_like(q)
    scale = 1.0 / math.sqrt(q.shape[-1])
    # All queries of one length together. Multiply and sum, because a batched product is not batch-invariant.
    for length in lengths.unique().tolist():
        chosen = (lengths == length).nonzero()[:, 0]
        slots = slot_table[chosen, :length].flatten().long()
        k = k_pool.index_select(0, slots).view(len(chosen), length, *q.shape[1:]).float()
        v = v_pool.index_select(0, slots).view(len(chosen), length, *q.shape[1:]).float()
        score = (q[chosen, None].float() * k).sum(-1) * scale  # [queries, length, heads]
        out[chosen] = (torch.softmax(score, dim=1)[..., None] * v).sum(1).to(q.dtype)
    return out


def _reference_cross(
    q: torch.Tensor,
    k_pool: torch.Tensor,
    v_pool: torch.Tensor,
    slot_table: torch.Tensor,
    lengths: torch.Tensor,
    cu_queries: torch.Tensor,
) -> torch.Tensor:
    out = torch.empty_like(q)
    bounds = cu_queries.tolist()
    for table, length in enumerate(lengths.tolist()):
        chosen = slice(bounds[table], bounds[table + 1])
        if chosen.start == chosen.stop:
            continue
        slots = slot_table[table, :length]
        k = k_pool.index_select(0, slots).transpose(0, 1).float()  # [heads, length, d]
        v = v_pool.index_select(0, slots).transpose(0, 1).float()
        # Each query is an entry of the batch: the products have one shape, however many beams share the keys.
        queries = q[chosen, :, None].float()  # [beams, heads, 1, d]
        mixed = F.scaled_dot_product_attention(
            queries, k.expand(len(queries), -1, -1, -1), v.expand(len(queries), -1, -1, -1)
        )
        out[chosen] = mixed[:, :, 0].to(q.dtype)
    return out


@jit
def _per_query(x, BEAMS: tl.constexpr):
    """x [BEAMS] as a column, to go with tiles [BEAMS, …]; a scalar where there is one query."""
    if BEAMS == 1:
        return x
    else:
        return x[:, None]


@jit
def _empty_softmax(D: tl.constexpr, BEAMS: tl.constexpr):
    """(m_i, l_i, acc) of no keys."""
    if BEAMS == 1:
        return tl.full([], float("-inf"), tl.float32), tl.full([], 0.0, tl.float32), tl.zeros([D], tl.float32)
    else:
        acc = tl.zeros([BEAMS, D], tl.float32)
        return tl.full([BEAMS], float("-inf"), tl.float32), tl.zeros([BEAMS], tl.float32), acc


@jit
def _combine(m_i, l_i, acc, m_chunk, l_chunk, acc_chunk, BEAMS: tl.constexpr):
    m_new = tl.maximum(m_i, m_chunk)
    alpha, beta = tl.exp2(m_i - m_new), tl.exp2(m_chunk - m_new)
    # explicit fma: the compiler might round once in one kernel and twice in the other
    l_i = tl.fma(l_i, alpha, l_chunk * beta)
    acc = tl.fma(acc, _per_query(alpha, BEAMS), acc_chunk * _per_query(beta, BEAMS))
    return m_new, l_i, acc


@jit
def _online_softmax_update(m_i, l_i, acc, q, k, v, n_mask, scale, BEAMS: tl.constexpr):
    """(m_i, l_i, acc) after a block of keys and values k, v [BLOCK, D], of which `n_mask` marks those that exist."""
    if BEAMS == 1:
        qk = tl.sum(q.to(tl.float32) * k.to(tl.float32), 1)  # [BLOCK]
    else:
        qk = tl.dot(q, tl.trans(k), input_precision="ieee")  # [BEAMS, BLOCK]
    qk = tl.where(n_mask, qk, float("-inf"))
    m_new = tl.maximum(m_i, tl.max(qk, len(qk.shape) - 1) * scale)
    p = tl.exp2(tl.fma(qk, scale, -_per_query(m_new, BEAMS)))
    if BEAMS == 1:
        pv = tl.sum(p[:, None] * v.to(tl.float32), 0)
    else:
        pv = tl.dot(p.to(v.dtype), v, input_precision="ieee")
    alpha = tl.exp2(m_i - m_new)
    l_i = tl.fma(l_i, alpha, tl.sum(p, len(p.shape) - 1))
    return m_new, l_i, tl.fma(acc, _per_query(alpha, BEAMS), pv)


@jit
def _store(out_ptr, place, m_mask, l_i, acc, D: tl.constexpr, BEAMS: tl.constexpr):
    out = acc / _per_query(tl.where(l_i == 0.0, 1.0, l_i), BEAMS)
    offsets = _per_query(place, BEAMS) * D + tl.arange(0, D)
    tl.store(out_ptr + offsets, out.to(out_ptr.dtype.element_ty), mask=_per_query(m_mask, BEAMS))


@jit
def _queries_of(table, cu_queries_ptr):
    """First and end of the queries that read a table."""
    if cu_queries_ptr is None:
        return table, table + 1
    else:
        return tl.load(cu_queries_ptr + table), tl.load(cu_queries_ptr + table + 1)


@jit
def _tile(start_m, end_m, BEAMS: tl.constexpr):
    """(offs_m, m_mask) of a tile of queries."""
    if BEAMS == 1:
        return tl.full([], start_m, tl.int64), tl.full([], 1, tl.int1)
    else:
        offs_m = start_m + tl.arange(0, BEAMS)
        return offs_m.to(tl.int64), offs_m < end_m


@jit(do_not_specialize=["table_ptr", "length_ptr", "stride_table", "chunks"])
def _kernel(
    q_ptr,  # [queries, HEADS, D], queries stride_qm apart
    k_ptr,
    v_ptr,
    table_ptr,
    length_ptr,
    table_id_ptr,  # row of slot_table of each table; None: its own number
    cu_queries_ptr,  # None: a table for each query
    out_ptr,
    m_ptr,  # (m, l, acc) of chunks where SPLIT_KV: [queries, HEADS, chunks]
    l_ptr,
    acc_ptr,  # [queries, HEADS, chunks, D]
    scale,
    stride_qm,
    stride_kn,
    stride_vn,
    stride_table,
    chunks,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    BEAMS: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLIT_KV: tl.constexpr,
):
    table = tl.program_id(0) // HEADS
    head = tl.program_id(0) % HEADS
    first, end = _queries_of(table, cu_queries_ptr)
    length = tl.load(length_ptr + table)
    table_id = table if table_id_ptr is None else tl.load(table_id_ptr + table)
    table_ptr += table_id.to(tl.int64) * stride_table
    offs_d = head * D + tl.arange(0, D)
    for start_m in range(first, end, BEAMS):
        offs_m, m_mask = _tile(start_m, end, BEAMS)
        place = offs_m * HEADS + head
        q_ptrs = q_ptr + _per_query(offs_m, BEAMS) * stride_qm + offs_d
        q = tl.load(q_ptrs, mask=_per_query(m_mask, BEAMS), other=0.0)
        m_i, l_i, acc = _empty_softmax(D, BEAMS)
        for chunk in range(tl.program_id(1), tl.cdiv(length, CHUNK), tl.num_programs(1)):
            m_chunk, l_chunk, acc_chunk = _empty_softmax(D, BEAMS)
            for start_n in range(chunk * CHUNK, tl.minimum(chunk * CHUNK + CHUNK, length), BLOCK):
                offs_n = start_n + tl.arange(0, BLOCK)
                n_mask = offs_n < length
                slot = tl.load(table_ptr + offs_n, mask=n_mask, other=0).to(tl.int64)[:, None]
                # Slots that were never written may hold NaN, and 0 · NaN is NaN: values are masked as well as scores.
                k = tl.load(k_ptr + slot * stride_kn + offs_d, mask=n_mask[:, None], other=0.0)
                v = tl.load(v_ptr + slot * stride_vn + offs_d, mask=n_mask[:, None], other=0.0)
                m_chunk, l_chunk, acc_chunk = _online_softmax_update(
                    m_chunk, l_chunk, acc_chunk, q, k, v, n_mask, scale, BEAMS
                )
            if SPLIT_KV:
                if length > CHUNK:
                    at = place * chunks + chunk
                    tl.store(m_ptr + at, m_chunk, mask=m_mask)
                    tl.store(l_ptr + at, l_chunk, mask=m_mask)
                    offsets = _per_query(at, BEAMS) * D + tl.arange(0, D)
                    tl.store(acc_ptr + offsets, acc_chunk, mask=_per_query(m_mask, BEAMS))
            m_i, l_i, acc = _combine(m_i, l_i, acc, m_chunk, l_chunk, acc_chunk, BEAMS)
        if not SPLIT_KV or (length <= CHUNK and tl.program_id(1) == 0):
            _store(out_ptr, place, m_mask, l_i, acc, D, BEAMS)


@jit(do_not_specialize=["length_ptr", "chunks"])
def _combine_kernel(
    length_ptr,
    cu_queries_ptr,
    out_ptr,
    m_ptr,
    l_ptr,
    acc_ptr,
    chunks,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    BEAMS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    table = tl.program_id(0) // HEADS
    head = tl.program_id(0) % HEADS
    first, end = _queries_of(table, cu_queries_ptr)
    length = tl.load(length_ptr + table)
    if length > CHUNK:
        for start_m in range(first, end, BEAMS):
            offs_m, m_mask = _tile(start_m, end, BEAMS)
            place = offs_m * HEADS + head
            m_i, l_i, acc = _empty_softmax(D, BEAMS)
            for chunk in range(tl.cdiv(length, CHUNK)):
                at = place * chunks + chunk
                m_chunk = tl.load(m_ptr + at, mask=m_mask, other=0.0)
                l_chunk = tl.load(l_ptr + at, mask=m_mask, other=0.0)
                offsets = _per_query(at, BEAMS) * D + tl.arange(0, D)
                acc_chunk = tl.load(acc_ptr + offsets, mask=_per_query(m_mask, BEAMS), other=0.0)
                m_i, l_i, acc = _combine(m_i, l_i, acc, m_chunk, l_chunk, acc_chunk, BEAMS)
            _store(out_ptr, place, m_mask, l_i, acc, D, BEAMS)


def _triton(
    q: torch.Tensor,
    k_pool: torch.Tensor,
    v_pool: torch.Tensor,
    slot_table: torch.Tensor,
    lengths: torch.Tensor,
    cu_queries: torch.Tensor | None,
    table_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    tables, (queries, heads, d) = lengths.shape[0], q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    beams = 1 if cu_queries is None else _BEAMS
    config = config_for("paged_attention", (beams, d), q.dtype, q.device)
    chunks = triton.cdiv(slot_table.shape[1], config["CHUNK"])
    splits = max(1, min(chunks, 2 * num_sms(q.device, 64) // max(tables * heads, 1)))
    partial = (queries, heads, chunks) if splits > 1 else (0,)
    acc = torch.empty(*partial, d, dtype=torch.float32, device=q.device)
    m_i, l_i = (torch.empty(partial, dtype=torch.float32, device=q.device) for _ in range(2))
    dims = {"HEADS": heads, "D": d, "BEAMS": beams}
    if queries and tables:
        _kernel[(tables * heads, splits)](
            q,
            k_pool,
            v_pool,
            slot_table,
            lengths,
            table_ids,
            cu_queries,
            out,
            m_i,
            l_i,
            acc,
            math.log2(math.e) / math.sqrt(d),
            q.stride(0),
            k_pool.stride(0),
            v_pool.stride(0),
            slot_table.stride(0),
            chunks,
            SPLIT_KV=splits > 1,
            **dims,
            **config,
        )
        if splits > 1:
            options = {name: config[name] for name in ("CHUNK", "enable_fp_fusion")} | {"num_warps": 1}
            _combine_kernel[(tables * heads,)](lengths, cu_queries, out, m_i, l_i, acc, chunks, **dims, **options)
    return out


def _native(
    q: torch.Tensor,
    k_pool: torch.Tensor,
    v_pool: torch.Tensor,
    slot_table: torch.Tensor,
    lengths: torch.Tensor,
    cu_queries: torch.Tensor | None,
    table_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    assert csrc is not None
    if q.dtype != torch.float32:
        return reference(q, k_pool, v_pool, slot_table, lengths, cu_queries, table_ids)
    out = torch.empty(q.shape, dtype=q.dtype)
    if not len(q):
        return out
    attend = csrc.self_attention if cu_queries is None else csrc.cross_attention
    attend(
        q.numpy(),
        k_pool.numpy(),
        v_pool.numpy(),
        slot_table.numpy(),
        lengths.numpy(),
        None if table_ids is None else table_ids.numpy(),
        *(() if cu_queries is None else (cu_queries.numpy(),)),
        out.numpy(),
        torch.get_num_threads(),
    )
    return out


def self_attention(
    q: torch.Tensor,
    k_pool: torch.Tensor,
    v_pool: torch.Tensor,
    slot_table: torch.Tensor,
    lengths: torch.Tensor,
    table_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """[queries, heads, d]; lengths [queries], at least 1. A slot is contiguous; slots may be any distance apart.

    slot_table [queries, width]; or, with `table_ids` int32 [queries], a table of any rows, of which query r reads row
    table_ids[r].
    """
    return _implementation(q)(q, k_pool, v_pool, slot_table, lengths, None, table_ids)


def cross_attention(
    q: torch.Tensor,
    k_pool: torch.Tensor,
    v_pool: torch.Tensor,
    slot_table: torch.Tensor,
    lengths: torch.Tensor,
    cu_queries: torch.Tensor,
    table_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """[queries, heads, d]; lengths [requests], cu_queries int32 [requests + 1].

    slot_table [requests, width]; or, with `table_ids` int32 [requests], a table of any rows, of which request r reads
    row table_ids[r]. A request may have no queries. Results of queries from cu_queries[-1] on are not written.
    """
    return _implementation(q)(q, k_pool, v_pool, slot_table, lengths, cu_queries, table_ids)


def _implementation(q: torch.Tensor):
    name, d = backend_for(q.device, IMPLS), q.shape[-1]
    fits_triton = d >= 16 and d & (d - 1) == 0
    return IMPLS["torch" if name == "triton" and not fits_triton else name]


IMPLS = {"torch": reference, "triton": _triton} | ({"native": _native} if csrc else {})
