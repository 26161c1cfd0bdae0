"""linear for the few rows of a decode step, with what stands around it, in dependent launches.

Most of the 380 launches of a decode step of 1 × 5 beams are bound by their latency, and three things take launches away
or hide them. A product begins with the layer norm of its rows (72 launches less; the norm before the head stays). The
product of q, k and v stores keys and values to their slots (24 less). Every launch is a programmatic dependent one: it
starts while the kernel before it ends, has its part of the weight brought to the L2 cache, and only then waits for what
that kernel writes. Sums in chunks keep their two launches: with one program for all chunks of a tile, its 512 matrix
instructions would take longer than the bytes.

The bits are those of ours in separate launches. The product adds the same products in the same order. The norm's sums
are those of `layer_norm` with four warps: in either kernel a thread adds 8 numbers of a row, 32 threads exchange, then
4 warps. `layer_norm` has one warp in configs.json, and must have four there if this moves in; the proof compares with
four.

Predictions, not yet measured, for the decode step of 1 × 5 beams, 1.7 to 2.0 ms: norms −0.2 ms, dependent launches
−0.15 ms (attention still starts when the product before it has ended), stores −0.06 ms; together 1.3 to 1.6 ms. The
step of 256 × 5 beams and encoder passes have more rows than this takes, and do not change.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.device.candidates import Candidate
from benchmarks.device.candidates.decode_proof import MOST_ROWS, Cache, Norm, prove_decode_step
from benchmarks.device.candidates.persistent import available, chunk_of, epilogue
from seamless_kernels.config import config_for
from seamless_kernels.jit import jit, tl, triton
from seamless_kernels.layout import unit_stride
from seamless_kernels.linear import Activation, k_loop

_MOST_PROGRAMS = 200
_COLUMNS = (16, 32, 64)  # of a tile; with 8, Triton 3.6 has no instruction of a group of warps
_NORM_ROWS = 8  # rows whose sums are made at once


@jit(do_not_specialize=["M"])
def _kernel(
    x_ptr,
    w_ptr,
    bias_ptr,
    residual_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    y_ptr,  # the result, or the sums of chunks [chunks, M, N]
    k_pool_ptr,
    v_pool_ptr,
    slot_mapping_ptr,
    M,
    N,
    K,
    stride_xm,
    stride_rm,
    stride_slot,
    scale,
    eps,
    ACTIVATION: tl.constexpr,
    CHUNK: tl.constexpr,
    NORM_DIM: tl.constexpr,
    NORM_ROWS: tl.constexpr,
    LINES: tl.constexpr,  # of 128 bytes, that a row of the weight has in the chunk
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    start_n = tl.program_id(0) * BLOCK_N
    start_k = tl.program_id(1) * CHUNK
    offs_m, offs_k = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_K)
    offs_n = start_n + tl.arange(0, BLOCK_N)
    m_mask = offs_m < M
    w_rows = w_ptr + tl.minimum(offs_n, N - 1).to(tl.int64)[:, None] * K
    if DEPENDENT:
        lines = tl.minimum(start_k + tl.arange(0, LINES) * 64, K - 1)
        prefetch: tl.constexpr = "mov.u32 $0, 0; prefetch.global.L2 [$1];"
        tl.inline_asm_elementwise(prefetch, "=r,l", [w_rows + lines[None, :]], tl.int32, is_pure=False, pack=1)
        _wait()

    x_ptrs = x_ptr + offs_m[:, None] * stride_xm + offs_k[None, :]
    w_ptrs = w_rows + offs_k[None, :]
    if NORM_DIM:
        mean, rstd = _statistics(x_ptr, M, stride_xm, eps, NORM_DIM, NORM_ROWS, BLOCK_M)
        acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for k in range(0, NORM_DIM, BLOCK_K):
            k_mask = k + offs_k < NORM_DIM
            x = tl.load(x_ptrs + k, mask=m_mask[:, None] & k_mask[None, :], other=0.0)
            norm_weight = tl.load(norm_weight_ptr + k + offs_k, mask=k_mask, other=0.0).to(tl.float32)
            norm_bias = tl.load(norm_bias_ptr + k + offs_k, mask=k_mask, other=0.0).to(tl.float32)
            normed = (x.to(tl.float32) - mean[:, None]) * rstd[:, None] * norm_weight[None, :] + norm_bias[None, :]
            w = tl.load(w_ptrs + k, mask=k_mask[None, :], other=0.0)
            acc = tl.dot(normed.to(x.dtype), tl.trans(w), acc)
    elif CHUNK:
        end_k = tl.minimum(start_k + CHUNK, K)
        acc = k_loop(x_ptrs, w_ptrs, m_mask, offs_k, start_k, end_k, BLOCK_M, BLOCK_N, BLOCK_K)
        y_ptrs = y_ptr + (tl.program_id(1) * M + offs_m[:, None]) * N + offs_n[None, :]
        tl.store(y_ptrs, acc, mask=m_mask[:, None] & (offs_n < N)[None, :])
        return
    else:
        acc = k_loop(x_ptrs, w_ptrs, m_mask, offs_k, 0, K, BLOCK_M, BLOCK_N, BLOCK_K)

    y = epilogue(acc, acc, bias_ptr, residual_ptr, 0, start_n, M, N, stride_rm, scale, ACTIVATION)
    y = y.to(y_ptr.dtype.element_ty)
    mask = m_mask[:, None] & (offs_n < N)[None, :]
    if slot_mapping_ptr is None:
        tl.store(y_ptr + offs_m[:, None] * N + offs_n[None, :], y, mask=mask)
    else:
        third = N // 3
        part = start_n // third
        offs_n -= part * third
        if part == 0:
            tl.store(y_ptr + offs_m[:, None] * third + offs_n[None, :], y, mask=mask)
        else:
            slots = tl.load(slot_mapping_ptr + offs_m, mask=m_mask, other=0).to(tl.int64)
            target = slots[:, None] * stride_slot + offs_n[None, :]
            if part == 1:
                tl.store(k_pool_ptr + target, y, mask=mask)
            else:
                tl.store(v_pool_ptr + target, y, mask=mask)


@jit
def _wait():
    """Waits until the kernel before has ended, and lets the one after start."""
    wait: tl.constexpr = "mov.u32 $0, 0; griddepcontrol.wait;"
    tl.inline_asm_elementwise(wait, "=r", [], tl.int32, is_pure=False, pack=1)
    launch: tl.constexpr = "mov.u32 $0, 0; griddepcontrol.launch_dependents;"
    tl.inline_asm_elementwise(launch, "=r", [], tl.int32, is_pure=False, pack=1)


@jit
def _statistics(x_ptr, M, stride_xm, eps, DIM: tl.constexpr, NORM_ROWS: tl.constexpr, BLOCK_M: tl.constexpr):
    """Mean and 1 / sqrt(variance + eps) of each row, float32 [BLOCK_M], summed as `layer_norm` does."""
    BLOCKS: tl.constexpr = BLOCK_M // NORM_ROWS
    BLOCK_N: tl.constexpr = triton.next_power_of_2(DIM)
    offs_n = tl.arange(0, BLOCK_N)
    n_mask = (offs_n < DIM)[None, :]
    means = tl.zeros([BLOCKS, NORM_ROWS], tl.float32)
    rstds = tl.zeros([BLOCKS, NORM_ROWS], tl.float32)
    for block in range(tl.cdiv(M, NORM_ROWS)):
        offs_m = block * NORM_ROWS + tl.arange(0, NORM_ROWS)
        mask = (offs_m < M)[:, None] & n_mask
        x = tl.load(x_ptr + offs_m[:, None] * stride_xm + offs_n[None, :], mask=mask, other=0.0).to(tl.float32)
        mean = tl.sum(x, axis=1) / DIM
        centered = tl.where(n_mask, x - mean[:, None], 0.0)
        variance = tl.sum(centered * centered, axis=1) / DIM
        own = (tl.arange(0, BLOCKS) == block)[:, None]
        means = tl.where(own, mean[None, :], means)
        rstds = tl.where(own, tl.rsqrt(variance + eps)[None, :], rstds)
    return tl.reshape(means, [BLOCK_M]), tl.reshape(rstds, [BLOCK_M])


@jit(do_not_specialize=["M"])
def sum_kernel(
    sums_ptr,  # [CHUNKS, M, N]
    bias_ptr,
    residual_ptr,
    y_ptr,
    M,
    N,
    stride_rm,
    scale,
    ACTIVATION: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    if DEPENDENT:
        _wait()
    start_m, start_n = tl.program_id(0) * BLOCK_M, tl.program_id(1) * BLOCK_N
    offs_m, offs_n = start_m + tl.arange(0, BLOCK_M)[:, None], start_n + tl.arange(0, BLOCK_N)[None, :]
    mask = (offs_m < M) & (offs_n < N)
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for chunk in range(CHUNKS):
        acc += tl.load(sums_ptr + (chunk * M + offs_m) * N + offs_n, mask=mask, other=0.0)
    y = epilogue(acc, acc, bias_ptr, residual_ptr, start_m, start_n, M, N, stride_rm, scale, ACTIVATION)
    tl.store(y_ptr + offs_m * N + offs_n, y.to(y_ptr.dtype.element_ty), mask=mask)


def run(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    activation: Activation | None = None,
    residual: torch.Tensor | None = None,
    scale: float = 1.0,
    out_dtype: torch.dtype | None = None,
    norm: Norm | None = None,
    cache: Cache | None = None,
) -> torch.Tensor:
    """`linear` of x, or of its layer norm, for up to 64 rows of 16 bits. With a cache the result is q, [rows, out / 3].

    Raises NotImplementedError for more rows, float32, GLU, and a norm or a cache of a sum in chunks.
    """
    M, (N, K) = x.shape[0], weight.shape
    if x.dtype.itemsize != 2 or M > MOST_ROWS or activation == "glu":
        raise NotImplementedError("up to 64 rows of 16 bits, no GLU")
    if cache is not None and N // 3 % max(_COLUMNS):
        raise NotImplementedError("a tile must lie in q, k or v")
    config = config_for("linear", (N, K), x.dtype, x.device)
    chunk = chunk_of(config, K)
    if chunk and (norm is not None or cache is not None):
        raise NotImplementedError("a norm or a cache of a sum in chunks")
    y = x.new_empty(M, N if cache is None else N // 3, dtype=out_dtype or x.dtype)
    if not M:
        return y
    x = unit_stride(x)
    residual = None if residual is None else unit_stride(residual)
    interpreted = x.device.type == "cpu"
    columns = next((size for size in _COLUMNS if triton.cdiv(N, size) <= _MOST_PROGRAMS), _COLUMNS[-1])
    chunks = triton.cdiv(K, chunk) if chunk else 1
    sums = x.new_empty(chunks, M, N, dtype=torch.float32) if chunk else y
    stride_rm = 0 if residual is None else residual.stride(0)
    common: dict[str, Any] = {
        "ACTIVATION": activation,
        "DEPENDENT": not interpreted,
        "launch_pdl": not interpreted,
        "num_warps": 4,
        "enable_fp_fusion": config["enable_fp_fusion"],
    }
    k_pool, v_pool, slot_mapping = (None, None, None) if cache is None else cache
    norm_weight, norm_bias, eps = (None, None, 0.0) if norm is None else norm
    _kernel[(triton.cdiv(N, columns), chunks)](
        x,
        weight,
        bias,
        residual,
        norm_weight,
        norm_bias,
        sums,
        k_pool,
        v_pool,
        slot_mapping,
        M,
        N,
        K,
        x.stride(0),
        stride_rm,
        0 if k_pool is None else k_pool.stride(0),
        scale,
        eps,
        CHUNK=chunk,
        NORM_DIM=0 if norm is None else K,
        NORM_ROWS=_NORM_ROWS,
        LINES=triton.next_power_of_2(triton.cdiv(chunk or K, 64)),
        BLOCK_M=MOST_ROWS,
        BLOCK_N=columns,
        BLOCK_K=32 if interpreted else 128,
        num_stages=1 if interpreted else 5,
        **common,
    )
    if chunk:
        sum_kernel[(triton.cdiv(M, 4), triton.cdiv(N, 128))](
            sums, bias, residual, y, M, N, stride_rm, scale, CHUNKS=chunks, BLOCK_M=4, BLOCK_N=128, **common
        )
    return y


def prove(device: torch.device, quick: bool) -> str:
    return prove_decode_step(run, device, quick)


CANDIDATE = Candidate("decode step", "linear", available, run, prove)
