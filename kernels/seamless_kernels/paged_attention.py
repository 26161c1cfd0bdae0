"""Decode attention: one query per row, keys and values scattered over the slots of a pool.

    o[r] = softmax(q[r] · K_tᵀ / sqrt(d)) · V_t,   K_t, V_t = the pool at slot_table[t, :lengths[t]]
    q [rows, heads, d], k_pool, v_pool [slots, heads, d], slot_table int32 [tables, width], lengths int32 [tables]

`self_attention`: a table per row. `cross_attention`: a table per request, which serves rows cu_rows[t]:cu_rows[t + 1],
so keys and values are read once however many beams look at them. Slots past `lengths` are never read.

The kernel takes the keys of a table in chunks of a fixed size, those of a chunk in blocks, and keeps of each the
maximum m, the sum l and the unnormalised result a of a softmax in base 2. Chunks are joined in their order,

    (m, l, a) + (m', l', a') = (M, l·2^(m−M) + l'·2^(m'−M), a·2^(m−M) + a'·2^(m'−M)),   M = max(m, m'),

by the program that computed them or, where few programs would leave the device idle, by a second kernel: the same bits.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F

from seamless_kernels.config import config_for
from seamless_kernels.dispatch import backend_for
from seamless_kernels.jit import jit, tl, triton
from seamless_kernels.native import csrc

_BEAMS = 16  # queries of a tile of cross-attention: the rows of a matrix instruction


def reference(
    q: torch.Tensor,
    k_pool: torch.Tensor,
    v_pool: torch.Tensor,
    slot_table: torch.Tensor,
    lengths: torch.Tensor,
    cu_rows: torch.Tensor | None,
    lines: torch.Tensor | None = None,
) -> torch.Tensor:
    slot_table = slot_table if lines is None else slot_table[lines.long()]
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
        if rows.start == rows.stop:
            continue
        slots = slot_table[table, :length]
        k = k_pool.index_select(0, slots).transpose(0, 1).float()  # [heads, length, d]
        v = v_pool.index_select(0, slots).transpose(0, 1).float()
        # Each query is an entry of the batch: products have one shape, however many beams share the keys.
        queries = q[rows, :, None].float()  # [beams, heads, 1, d]
        mixed = F.scaled_dot_product_attention(
            queries, k.expand(len(queries), -1, -1, -1), v.expand(len(queries), -1, -1, -1)
        )
        out[rows] = mixed[:, :, 0].to(q.dtype)
    return out


@jit
def _column(x, BEAMS: tl.constexpr):
    """A number of each query, to go with tiles that have a line for each query; of one query it is a scalar."""
    if BEAMS == 1:
        return x
    else:
        return x[:, None]


@jit
def _nothing(D: tl.constexpr, BEAMS: tl.constexpr):
    """(m, l, a) of no keys."""
    if BEAMS == 1:
        return tl.full([], float("-inf"), tl.float32), tl.full([], 0.0, tl.float32), tl.zeros([D], tl.float32)
    else:
        acc = tl.zeros([BEAMS, D], tl.float32)
        return tl.full([BEAMS], float("-inf"), tl.float32), tl.zeros([BEAMS], tl.float32), acc


@jit
def _join(top, total, acc, next_top, next_total, next_acc, BEAMS: tl.constexpr):
    largest = tl.maximum(top, next_top)
    old, new = tl.exp2(top - largest), tl.exp2(next_top - largest)
    # fma by name: the compiler might round once in one kernel and twice in the other
    total = tl.fma(total, old, next_total * new)
    acc = tl.fma(acc, _column(old, BEAMS), next_acc * _column(new, BEAMS))
    return largest, total, acc


@jit
def _add_block(top, total, acc, q, k, v, read, scale, BEAMS: tl.constexpr):
    """(m, l, a) of the keys before and those of a block; k, v [BLOCK, D], `read` marks the keys that exist."""
    if BEAMS == 1:
        score = tl.sum(q.to(tl.float32) * k.to(tl.float32), 1)  # [BLOCK]
    else:
        score = tl.dot(q, tl.trans(k), input_precision="ieee")  # [BEAMS, BLOCK]
    score = tl.where(read, score, float("-inf"))
    largest = tl.maximum(top, tl.max(score, len(score.shape) - 1) * scale)
    p = tl.exp2(tl.fma(score, scale, -_column(largest, BEAMS)))
    if BEAMS == 1:
        added = tl.sum(p[:, None] * v.to(tl.float32), 0)
    else:
        added = tl.dot(p.to(v.dtype), v, input_precision="ieee")
    shrink = tl.exp2(top - largest)
    total = tl.fma(total, shrink, tl.sum(p, len(p.shape) - 1))
    return largest, total, tl.fma(acc, _column(shrink, BEAMS), added)


@jit
def _store(out_ptr, place, inside, total, acc, D: tl.constexpr, BEAMS: tl.constexpr):
    out = acc / _column(tl.where(total == 0.0, 1.0, total), BEAMS)
    offsets = _column(place, BEAMS) * D + tl.arange(0, D)
    tl.store(out_ptr + offsets, out.to(out_ptr.dtype.element_ty), mask=_column(inside, BEAMS))


@jit
def _rows_of(table, cu_rows_ptr):
    if cu_rows_ptr is None:
        return table, table + 1
    else:
        return tl.load(cu_rows_ptr + table), tl.load(cu_rows_ptr + table + 1)


@jit
def _group(first, end, BEAMS: tl.constexpr):
    """Rows of a tile, and which of them there are."""
    if BEAMS == 1:
        return tl.full([], first, tl.int64), tl.full([], 1, tl.int1)
    else:
        row = first + tl.arange(0, BEAMS)
        return row.to(tl.int64), row < end


@jit(do_not_specialize=["table_ptr", "length_ptr", "table_stride", "chunks"])
def _kernel(
    q_ptr,  # [rows, HEADS, D], rows q_stride apart
    k_ptr,
    v_ptr,
    table_ptr,
    length_ptr,
    line_ptr,  # the line of slot_table that each table is; None: its own number
    cu_rows_ptr,  # None: a table per row
    out_ptr,
    top_ptr,  # m, l, a of chunks when SPLIT: [rows, HEADS, chunks]
    total_ptr,
    acc_ptr,  # [rows, HEADS, chunks, D]
    scale,
    q_stride,
    k_stride,
    v_stride,
    table_stride,
    chunks,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    BEAMS: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLIT: tl.constexpr,
):
    table = tl.program_id(0) // HEADS
    head = tl.program_id(0) % HEADS
    first, end = _rows_of(table, cu_rows_ptr)
    length = tl.load(length_ptr + table)
    line = table if line_ptr is None else tl.load(line_ptr + table)
    table_ptr += line.to(tl.int64) * table_stride
    inner = head * D + tl.arange(0, D)
    for group in range(first, end, BEAMS):
        row, inside = _group(group, end, BEAMS)
        place = row * HEADS + head
        q = tl.load(q_ptr + _column(row, BEAMS) * q_stride + inner, mask=_column(inside, BEAMS), other=0.0)
        top, total, acc = _nothing(D, BEAMS)
        for chunk in range(tl.program_id(1), tl.cdiv(length, CHUNK), tl.num_programs(1)):
            chunk_top, chunk_total, chunk_acc = _nothing(D, BEAMS)
            for start in range(chunk * CHUNK, tl.minimum(chunk * CHUNK + CHUNK, length), BLOCK):
                key = start + tl.arange(0, BLOCK)
                read = key < length
                slot = tl.load(table_ptr + key, mask=read, other=0).to(tl.int64)[:, None]
                # Slots that were never written may hold NaN, and 0 · NaN is NaN: values are masked as well as scores.
                k = tl.load(k_ptr + slot * k_stride + inner, mask=read[:, None], other=0.0)
                v = tl.load(v_ptr + slot * v_stride + inner, mask=read[:, None], other=0.0)
                chunk_top, chunk_total, chunk_acc = _add_block(
                    chunk_top, chunk_total, chunk_acc, q, k, v, read, scale, BEAMS
                )
            if SPLIT:
                if length > CHUNK:
                    at = place * chunks + chunk
                    tl.store(top_ptr + at, chunk_top, mask=inside)
                    tl.store(total_ptr + at, chunk_total, mask=inside)
                    offsets = _column(at, BEAMS) * D + tl.arange(0, D)
                    tl.store(acc_ptr + offsets, chunk_acc, mask=_column(inside, BEAMS))
            top, total, acc = _join(top, total, acc, chunk_top, chunk_total, chunk_acc, BEAMS)
        if not SPLIT or (length <= CHUNK and tl.program_id(1) == 0):
            _store(out_ptr, place, inside, total, acc, D, BEAMS)


@jit(do_not_specialize=["length_ptr", "chunks"])
def _join_kernel(
    length_ptr,
    cu_rows_ptr,
    out_ptr,
    top_ptr,
    total_ptr,
    acc_ptr,
    chunks,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    BEAMS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    table = tl.program_id(0) // HEADS
    head = tl.program_id(0) % HEADS
    first, end = _rows_of(table, cu_rows_ptr)
    length = tl.load(length_ptr + table)
    if length > CHUNK:
        for group in range(first, end, BEAMS):
            row, inside = _group(group, end, BEAMS)
            place = row * HEADS + head
            top, total, acc = _nothing(D, BEAMS)
            for chunk in range(tl.cdiv(length, CHUNK)):
                at = place * chunks + chunk
                next_top = tl.load(top_ptr + at, mask=inside, other=0.0)
                next_total = tl.load(total_ptr + at, mask=inside, other=0.0)
                offsets = _column(at, BEAMS) * D + tl.arange(0, D)
                next_acc = tl.load(acc_ptr + offsets, mask=_column(inside, BEAMS), other=0.0)
                top, total, acc = _join(top, total, acc, next_top, next_total, next_acc, BEAMS)
            _store(out_ptr, place, inside, total, acc, D, BEAMS)


def _triton(
    q: torch.Tensor,
    k_pool: torch.Tensor,
    v_pool: torch.Tensor,
    slot_table: torch.Tensor,
    lengths: torch.Tensor,
    cu_rows: torch.Tensor | None,
    lines: torch.Tensor | None = None,
) -> torch.Tensor:
    tables, (count, heads, d) = lengths.shape[0], q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    beams = 1 if cu_rows is None else _BEAMS
    config = config_for("paged_attention", (beams, d), q.dtype, q.device)
    chunks = triton.cdiv(slot_table.shape[1], config["CHUNK"])
    splits = max(1, min(chunks, 2 * _processors(q.device) // max(tables * heads, 1)))
    partial = (count, heads, chunks) if splits > 1 else (0,)
    acc = torch.empty(*partial, d, dtype=torch.float32, device=q.device)
    top, total = (torch.empty(partial, dtype=torch.float32, device=q.device) for _ in range(2))
    dims = {"HEADS": heads, "D": d, "BEAMS": beams}
    if count and tables:
        _kernel[(tables * heads, splits)](
            q,
            k_pool,
            v_pool,
            slot_table,
            lengths,
            lines,
            cu_rows,
            out,
            top,
            total,
            acc,
            math.log2(math.e) / math.sqrt(d),
            q.stride(0),
            k_pool.stride(0),
            v_pool.stride(0),
            slot_table.stride(0),
            chunks,
            SPLIT=splits > 1,
            **dims,
            **config,
        )
        if splits > 1:
            options = {name: config[name] for name in ("CHUNK", "enable_fp_fusion")} | {"num_warps": 1}
            _join_kernel[(tables * heads,)](lengths, cu_rows, out, top, total, acc, chunks, **dims, **options)
    return out


def _native(
    q: torch.Tensor,
    k_pool: torch.Tensor,
    v_pool: torch.Tensor,
    slot_table: torch.Tensor,
    lengths: torch.Tensor,
    cu_rows: torch.Tensor | None,
    lines: torch.Tensor | None = None,
) -> torch.Tensor:
    assert csrc is not None
    if q.dtype != torch.float32:
        return reference(q, k_pool, v_pool, slot_table, lengths, cu_rows, lines)
    out = torch.empty(q.shape, dtype=q.dtype)
    if not len(q):
        return out
    attend = csrc.self_attention if cu_rows is None else csrc.cross_attention
    attend(
        q.numpy(),
        k_pool.numpy(),
        v_pool.numpy(),
        slot_table.numpy(),
        lengths.numpy(),
        None if lines is None else lines.numpy(),
        *(() if cu_rows is None else (cu_rows.numpy(),)),
        out.numpy(),
        torch.get_num_threads(),
    )
    return out


@functools.cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 64


def self_attention(
    q: torch.Tensor,
    k_pool: torch.Tensor,
    v_pool: torch.Tensor,
    slot_table: torch.Tensor,
    lengths: torch.Tensor,
    rows: torch.Tensor | None = None,
) -> torch.Tensor:
    """[rows, heads, d]; lengths [rows], at least 1; slots are contiguous inside, any distance apart.

    slot_table [rows, width]; with `rows` int32 [rows], any table, of which row r reads line rows[r].
    """
    return _implementation(q)(q, k_pool, v_pool, slot_table, lengths, None, rows)


def cross_attention(
    q: torch.Tensor,
    k_pool: torch.Tensor,
    v_pool: torch.Tensor,
    slot_table: torch.Tensor,
    lengths: torch.Tensor,
    cu_rows: torch.Tensor,
    requests: torch.Tensor | None = None,
) -> torch.Tensor:
    """[rows, heads, d]; lengths [requests], cu_rows int32 [requests + 1].

    slot_table [requests, width]; with `requests` int32 [requests], any table, of which request r reads line
    requests[r]. A request may have no rows. Rows from cu_rows[-1] on are not written.
    """
    return _implementation(q)(q, k_pool, v_pool, slot_table, lengths, cu_rows, requests)


def _implementation(q: torch.Tensor):
    name, d = backend_for(q.device, IMPLS), q.shape[-1]
    takes = d >= 16 and d & (d - 1) == 0
    return reference if name == "triton" and not takes else IMPLS[name]


IMPLS = {"torch": reference, "triton": _triton} | ({"native": _native} if csrc else {})
