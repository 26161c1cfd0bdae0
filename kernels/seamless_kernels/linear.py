"""Matrix product with its epilogue: y = residual + scale · act(x · Wᵀ + b).

    x [rows, in], W [out, in], b [out]  →  y [rows, out];  act: none, ReLU, SiLU, or GLU, which halves `out`:
    GLU(a | g) = a · sigmoid(g), the two halves of the columns.

The product is batch-invariant: the bits of a row do not depend on how many rows are computed with it. Sums are float32
and rounded once, at the end. `linear_cpu` has the implementations for a CPU.

On a GPU an element is accumulated along `in` by matrix instructions of 16 products each; where `in` exceeds CHUNK, in
chunks of CHUNK products whose sums are added in their order. Dims and dtype decide this. The number of rows decides
only the schedule: the tile of a program, and whether a program sums all chunks of its tile or one (split-K).
docs/kernels.md has the reasons.

A weight may be int8 (`Int8Weight`): x is then quantized by rows, and sums are exact integers.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from seamless_kernels.config import config_for
from seamless_kernels.dispatch import backend_for
from seamless_kernels.int8 import Int8Weight, quantize_rows
from seamless_kernels.jit import jit, tl, triton
from seamless_kernels.layout import unit_stride
from seamless_kernels.linear_cpu import (
    Activation,
    PackedWeight,
    finish,
    pack,
    pack_int8,
    product,
    product_by_chunks,
    product_int8,
)
from seamless_kernels.native import csrc
from seamless_kernels.precision import compute_dtype

LinearWeight = torch.Tensor | PackedWeight | Int8Weight

TILE = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps", "num_stages")  # the numbers of a tile in the table
_GROUP_M = 16
_SUM_BLOCK = 256


def reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    activation: Activation | None = None,
    residual: torch.Tensor | None = None,
    scale: float = 1.0,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    rows, dtype = len(x), out_dtype or x.dtype
    wide = torch.promote_types(compute_dtype(x), dtype)
    x, weight = x.to(wide), weight.to(wide)
    bias, residual = (None if tensor is None else tensor.to(wide) for tensor in (bias, residual))
    y = product_by_chunks(x, weight, bias) if x.device.type == "cpu" else F.linear(x, weight, bias)
    return finish(y, rows, activation, residual, scale).to(dtype)


@jit(do_not_specialize=["M"])
def _product_kernel(
    x_ptr,
    w_ptr,
    x_scale_ptr,  # [M], and
    w_scale_ptr,  # [N] where the weight is int8, else None
    bias_ptr,
    residual_ptr,
    y_ptr,  # the result; with SPLIT_K the sums of chunks [chunks, M, N]
    M,
    N,
    K,
    stride_xm,
    stride_rm,
    scale,
    ACTIVATION: tl.constexpr,
    CHUNK: tl.constexpr,
    SPLIT_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    GLU: tl.constexpr = ACTIVATION == "glu"
    IS_INT8: tl.constexpr = w_scale_ptr is not None
    BLOCK_OUT: tl.constexpr = BLOCK_N // 2 if GLU else BLOCK_N
    tiles_n = tl.cdiv(N, BLOCK_N)
    # grouped ordering: programs that run at the same time cover a square of the result
    group_id, pid_in_group = tl.program_id(0) // (GROUP_M * tiles_n), tl.program_id(0) % (GROUP_M * tiles_n)
    group_size_m = tl.minimum(tl.cdiv(M, BLOCK_M) - group_id * GROUP_M, GROUP_M)
    pid_m, pid_n = group_id * GROUP_M + pid_in_group % group_size_m, pid_in_group // group_size_m

    start_m = (pid_m * BLOCK_M).to(tl.int64)
    offs_m = tl.arange(0, BLOCK_M)
    m_mask = offs_m < M - pid_m * BLOCK_M
    offs_n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    column = tl.minimum(offs_n, N - 1)
    if GLU:  # the halves alternate, so that a value and its gate are adjacent in the registers of a thread
        column = column // 2 + column % 2 * (N // 2)
    offs_k = tl.arange(0, BLOCK_K)
    x_ptrs = x_ptr + start_m * stride_xm + offs_m[:, None] * stride_xm + offs_k[None, :]
    w_ptrs = w_ptr + column.to(tl.int64)[:, None] * K + offs_k[None, :]

    if SPLIT_K:
        chunk = tl.program_id(1)
        start_k, end_k = chunk * CHUNK, tl.minimum(chunk * CHUNK + CHUNK, K)
        acc = k_loop(x_ptrs, w_ptrs, m_mask, offs_k, start_k, end_k, BLOCK_M, BLOCK_N, BLOCK_K, IS_INT8)
        y_ptrs = y_ptr + (chunk * M + start_m) * N + offs_m[:, None] * N + column[None, :]
        tl.store(y_ptrs, acc, mask=m_mask[:, None] & (offs_n < N)[None, :])
        return

    if CHUNK:
        acc = tl.zeros([BLOCK_M, BLOCK_N], tl.int32 if IS_INT8 else tl.float32)
        for start_k in range(0, K, CHUNK):
            end_k = tl.minimum(start_k + CHUNK, K)
            acc += k_loop(x_ptrs, w_ptrs, m_mask, offs_k, start_k, end_k, BLOCK_M, BLOCK_N, BLOCK_K, IS_INT8)
    else:
        acc = k_loop(x_ptrs, w_ptrs, m_mask, offs_k, 0, K, BLOCK_M, BLOCK_N, BLOCK_K, IS_INT8)
    if IS_INT8:
        x_scale = tl.load(x_scale_ptr + start_m + offs_m, mask=m_mask, other=0.0)[:, None]
        acc = _dequantize(acc, x_scale, w_scale_ptr, bias_ptr, column[None, :])
    elif bias_ptr is not None:
        acc += tl.load(bias_ptr + column).to(tl.float32)[None, :]
    if GLU:
        value, gate = tl.split(tl.reshape(acc, [BLOCK_M, BLOCK_OUT, 2]))
        acc = value / (1.0 + tl.exp(-gate))

    out_features = N // 2 if GLU else N
    y_ptrs = y_ptr + start_m * out_features + offs_m[:, None] * out_features
    if residual_ptr is not None:
        residual_ptr += start_m * stride_rm + offs_m[:, None] * stride_rm
    # the largest tile is stored in halves: its sums and its residual together do not fit in the registers
    if BLOCK_M * BLOCK_OUT > 128 * 128:
        left, right = tl.split(tl.permute(tl.reshape(acc, [BLOCK_M, 2, BLOCK_OUT // 2]), [0, 2, 1]))
        offs_out = (pid_n * BLOCK_OUT + tl.arange(0, BLOCK_OUT // 2))[None, :]
        _epilogue(left, residual_ptr, y_ptrs, offs_out, m_mask[:, None] & (offs_out < out_features), scale, ACTIVATION)
        offs_out += BLOCK_OUT // 2
        _epilogue(right, residual_ptr, y_ptrs, offs_out, m_mask[:, None] & (offs_out < out_features), scale, ACTIVATION)
    else:
        offs_out = (pid_n * BLOCK_OUT + tl.arange(0, BLOCK_OUT))[None, :]
        _epilogue(acc, residual_ptr, y_ptrs, offs_out, m_mask[:, None] & (offs_out < out_features), scale, ACTIVATION)


@jit
def k_loop(
    x_ptrs,
    w_ptrs,
    m_mask,
    offs_k,
    start_k,
    end_k,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    IS_INT8: tl.constexpr = False,
):
    """x · Wᵀ over start_k … end_k − 1 of the reduction: float32 [BLOCK_M, BLOCK_N], int32 where IS_INT8."""
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.int32 if IS_INT8 else tl.float32)
    for k in range(start_k, end_k, BLOCK_K):
        k_mask = (k + offs_k < end_k)[None, :]
        x = tl.load(x_ptrs + k, mask=m_mask[:, None] & k_mask, other=0)
        w = tl.load(w_ptrs + k, mask=k_mask, other=0)
        if IS_INT8:
            acc = tl.dot(x, tl.trans(w), acc, out_dtype=tl.int32)
        else:
            acc = tl.dot(x, tl.trans(w), acc, input_precision="ieee")
    return acc


@jit
def _dequantize(acc, x_scale, w_scale_ptr, bias_ptr, column):
    """Integer sums → float32, with the bias."""
    value = acc.to(tl.float32) * tl.load(w_scale_ptr + column)
    if bias_ptr is not None:
        value = tl.fma(value, x_scale, tl.load(bias_ptr + column).to(tl.float32))  # explicit, as in _epilogue
    else:
        value *= x_scale
    return value


@jit
def _epilogue(value, residual_ptr, y_ptr, offs_out, mask, scale, ACTIVATION: tl.constexpr):
    if ACTIVATION == "relu":
        value = tl.where(value < 0.0, 0.0, value)  # a NaN stays
    elif ACTIVATION == "silu":
        value = value / (1.0 + tl.exp(-value))
    if residual_ptr is not None:
        residual = tl.load(residual_ptr + offs_out, mask=mask, other=0.0).to(tl.float32)
        value = tl.fma(value, scale, residual)  # explicit, because both kernels must round in the same way
    else:
        value = value * scale
    tl.store(y_ptr + offs_out, value.to(y_ptr.dtype.element_ty), mask=mask)


@jit(do_not_specialize=["M"])
def _sum_kernel(
    sums_ptr,  # [CHUNKS, M, N]
    x_scale_ptr,
    w_scale_ptr,
    bias_ptr,
    residual_ptr,
    y_ptr,
    M,
    N,
    stride_rm,
    scale,
    ACTIVATION: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    GLU: tl.constexpr = ACTIVATION == "glu"
    out_features = N // 2 if GLU else N
    row = tl.program_id(0).to(tl.int64)
    offs_out = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = offs_out < out_features
    stride_chunk = M.to(tl.int64) * N
    sums_ptr += row * N
    x_scale = None
    if x_scale_ptr is not None:
        x_scale = tl.load(x_scale_ptr + row)
    column = tl.minimum(offs_out, out_features - 1)
    acc = _sum_chunks(sums_ptr, x_scale, w_scale_ptr, bias_ptr, column, stride_chunk, CHUNKS, BLOCK)
    if GLU:
        gate = _sum_chunks(sums_ptr, x_scale, w_scale_ptr, bias_ptr, out_features + column, stride_chunk, CHUNKS, BLOCK)
        acc = acc / (1.0 + tl.exp(-gate))
    if residual_ptr is not None:
        residual_ptr += row * stride_rm
    _epilogue(acc, residual_ptr, y_ptr + row * out_features, offs_out, mask, scale, ACTIVATION)


@jit
def _sum_chunks(
    sums_ptr, x_scale, w_scale_ptr, bias_ptr, column, stride_chunk, CHUNKS: tl.constexpr, BLOCK: tl.constexpr
):
    acc = tl.zeros([BLOCK], sums_ptr.dtype.element_ty)
    for chunk in range(CHUNKS):
        acc += tl.load(sums_ptr + chunk * stride_chunk + column)
    if w_scale_ptr is not None:
        acc = _dequantize(acc, x_scale, w_scale_ptr, bias_ptr, column)
    elif bias_ptr is not None:
        acc += tl.load(bias_ptr + column).to(tl.float32)
    return acc


def _triton(
    x: torch.Tensor,
    weight: torch.Tensor | Int8Weight,
    bias: torch.Tensor | None = None,
    *,
    activation: Activation | None = None,
    residual: torch.Tensor | None = None,
    scale: float = 1.0,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    weight, weight_scale = (weight.values, weight.scale) if isinstance(weight, Int8Weight) else (weight, None)
    M, (N, K) = x.shape[0], weight.shape
    out_features = N // 2 if activation == "glu" else N
    y = torch.empty(M, out_features, dtype=out_dtype or x.dtype, device=x.device)
    if not M:
        return y
    x, x_scale = (unit_stride(x), None) if weight_scale is None else quantize_rows(x)
    residual = None if residual is None else unit_stride(residual)
    config = config_for("linear", (N, K), x.dtype, x.device)
    if weight_scale is not None:  # the largest tile would spill
        config["TILES"] = [sizes for sizes in config["TILES"] if sizes[0] * sizes[1] <= 128 * 128]
    chunk = config["CHUNK"] if K > config["CHUNK"] else 0
    chunks = triton.cdiv(K, chunk) if chunk else 1
    tile, split_k = schedule(M, N, chunks, config)
    tiles = triton.cdiv(M, tile["BLOCK_M"]) * triton.cdiv(N, tile["BLOCK_N"])
    acc_dtype = torch.float32 if weight_scale is None else torch.int32
    sums = torch.empty(chunks, M, N, dtype=acc_dtype, device=x.device) if split_k else y
    stride_rm = 0 if residual is None else residual.stride(0)
    _product_kernel[(tiles, chunks if split_k else 1)](
        x,
        weight,
        x_scale,
        weight_scale,
        bias,
        residual,
        sums,
        M,
        N,
        K,
        x.stride(0),
        stride_rm,
        scale,
        ACTIVATION=activation,
        CHUNK=chunk,
        SPLIT_K=split_k,
        GROUP_M=_GROUP_M,
        enable_fp_fusion=config["enable_fp_fusion"],
        **tile,
    )
    if split_k:
        _sum_kernel[(M, triton.cdiv(out_features, _SUM_BLOCK))](
            sums,
            x_scale,
            weight_scale,
            bias,
            residual,
            y,
            M,
            N,
            stride_rm,
            scale,
            ACTIVATION=activation,
            CHUNKS=chunks,
            BLOCK=_SUM_BLOCK,
            num_warps=_SUM_BLOCK // 128,
            enable_fp_fusion=config["enable_fp_fusion"],
        )
    return y


def schedule(M: int, N: int, chunks: int, config: dict[str, Any]) -> tuple[dict[str, int], bool]:
    """The tile, and whether each chunk is a program: the largest tile that gives the GPU enough programs."""
    tile: dict[str, int] = {}
    for sizes in config["TILES"]:
        tile = dict(zip(TILE, sizes, strict=True))
        tiles = triton.cdiv(M, tile["BLOCK_M"]) * triton.cdiv(N, tile["BLOCK_N"])
        for split_k in (False, True) if chunks > 1 else (False,):
            if tile["BLOCK_M"] <= max(M, 64) and tiles * (chunks if split_k else 1) >= config["PROGRAMS"]:
                return tile, split_k
    return tile, chunks > 1


def pack_weight(weight: torch.Tensor) -> torch.Tensor | PackedWeight:
    """`weight` [out, in] in the layout that `linear` reads fastest on its device. Done once, at load."""
    return pack(weight) if backend_for(weight.device, IMPLS) == "native" else weight.contiguous()


def pack_weight_int8(weight: torch.Tensor) -> Int8Weight:
    """`weight` [out, in] quantized to int8, in the layout that `linear` reads fastest on its device."""
    packed = Int8Weight(*quantize_rows(weight))
    return pack_int8(packed) if backend_for(weight.device, INT8_IMPLS) == "onednn" else packed


def linear(
    x: torch.Tensor,
    weight: LinearWeight,
    bias: torch.Tensor | None = None,
    *,
    activation: Activation | None = None,
    residual: torch.Tensor | None = None,
    scale: float = 1.0,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """residual + scale · activation(x · Wᵀ + bias), [rows, out] in `out_dtype`: x's dtype, if not given, or float32.

    `weight` is as `pack_weight` or `pack_weight_int8` left it, in x's dtype. The result is rounded once, at the end.
    """
    call: Any
    if isinstance(weight, PackedWeight):
        call = product
    elif isinstance(weight, Int8Weight):
        call = INT8_IMPLS["onednn" if weight.values.is_mkldnn else backend_for(x.device, _INT8_PLAIN)]
    else:
        call = IMPLS[backend_for(x.device, _PLAIN)]
    return call(x, weight, bias, activation=activation, residual=residual, scale=scale, out_dtype=out_dtype)


def logits(hidden: torch.Tensor, head: LinearWeight) -> torch.Tensor:
    """hidden · headᵀ, float32 [rows, out]; hidden may be of another dtype than the head."""
    if not isinstance(head, Int8Weight):
        hidden = hidden.to(head.dtype)
    return linear(hidden, head, out_dtype=torch.float32)


# The implementations that read a plain weight; the others read only what was packed for them.
_PLAIN: dict[str, Any] = {"torch": reference, "triton": _triton}
_INT8_PLAIN: dict[str, Any] = {"torch": product_int8, "triton": _triton}
IMPLS: dict[str, Any] = _PLAIN | ({"native": product} if csrc else {})
INT8_IMPLS: dict[str, Any] = _INT8_PLAIN | {"onednn": product_int8}
