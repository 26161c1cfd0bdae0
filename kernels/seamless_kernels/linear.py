"""Matrix product with its epilogue: y = residual + scale · act(x · Wᵀ + b).

    x [rows, in], W [out, in], b [out]  →  y [rows, out];  act: none, ReLU, SiLU, or GLU, which halves `out`:
    GLU(a | g) = a · sigmoid(g), the two halves of the columns.

A row of the result does not depend on how many rows are computed with it; sums are float32 and rounded once, at the
end. `linear_cpu` has the CPU's implementations.

On a GPU an element is a chain of matrix instructions along `in`, 16 products each, in float32; or several chains of
CHUNK products, added in their order. Dims and dtype decide which. The number of rows decides what shares a program: the
tile, and whether the chunks of a tile are summed in one program or by one each. docs/kernels.md has the reasons.

A weight may be in 8 bits (`int8`): x is then quantised by rows, and the chains are sums of whole numbers.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from seamless_kernels.config import config_for
from seamless_kernels.dispatch import backend_for
from seamless_kernels.int8 import Int8, quantize_rows
from seamless_kernels.jit import jit, tl, triton
from seamless_kernels.linear_cpu import (
    Activation,
    PackedWeight,
    dense,
    finish,
    pack,
    pack_int8,
    product,
    product_by_chunks,
    product_int8,
)
from seamless_kernels.native import csrc
from seamless_kernels.precision import compute_dtype

LinearWeight = torch.Tensor | PackedWeight | Int8

_TILE = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps", "num_stages")  # a tile of the table
_BAND = 16
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


@jit(do_not_specialize=["rows"])
def _product_kernel(
    x_ptr,
    weight_ptr,
    x_scale_ptr,  # [rows] and
    weight_scale_ptr,  # [columns] of int8, else none
    bias_ptr,
    residual_ptr,
    y_ptr,  # the result; where chunks are SPLIT, their sums [chunks, rows, columns]
    rows,
    columns,
    inner,
    x_stride,
    residual_stride,
    scale,
    ACTIVATION: tl.constexpr,
    CHUNK: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BAND: tl.constexpr,
):
    GLU: tl.constexpr = ACTIVATION == "glu"
    WHOLE: tl.constexpr = weight_scale_ptr is not None
    WIDTH: tl.constexpr = BLOCK_N // 2 if GLU else BLOCK_N
    tiles_n = tl.cdiv(columns, BLOCK_N)
    # programs that run at the same time cover a square of the result: a band of BAND tiles, rows first
    band, place = tl.program_id(0) // (BAND * tiles_n), tl.program_id(0) % (BAND * tiles_n)
    height = tl.minimum(tl.cdiv(rows, BLOCK_M) - band * BAND, BAND)
    tile_m, tile_n = band * BAND + place % height, place // height

    above = (tile_m * BLOCK_M).to(tl.int64)
    row = tl.arange(0, BLOCK_M)
    real = row < rows - tile_m * BLOCK_M
    ordinal = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    column = tl.minimum(ordinal, columns - 1)
    if GLU:  # the halves alternate, so that a value and its gate are neighbours in a thread's registers
        column = column // 2 + column % 2 * (columns // 2)
    k = tl.arange(0, BLOCK_K)
    x_ptrs = x_ptr + above * x_stride + row[:, None] * x_stride + k[None, :]
    weight_ptrs = weight_ptr + column.to(tl.int64)[:, None] * inner + k[None, :]

    if SPLIT:
        chunk = tl.program_id(1)
        first, last = chunk * CHUNK, tl.minimum(chunk * CHUNK + CHUNK, inner)
        total = _chain(x_ptrs, weight_ptrs, real, k, first, last, BLOCK_M, BLOCK_N, BLOCK_K, WHOLE)
        y_ptrs = y_ptr + (chunk * rows + above) * columns + row[:, None] * columns + column[None, :]
        tl.store(y_ptrs, total, mask=real[:, None] & (ordinal < columns)[None, :])
        return

    if CHUNK:
        total = tl.zeros([BLOCK_M, BLOCK_N], tl.int32 if WHOLE else tl.float32)
        for first in range(0, inner, CHUNK):
            last = tl.minimum(first + CHUNK, inner)
            total += _chain(x_ptrs, weight_ptrs, real, k, first, last, BLOCK_M, BLOCK_N, BLOCK_K, WHOLE)
    else:
        total = _chain(x_ptrs, weight_ptrs, real, k, 0, inner, BLOCK_M, BLOCK_N, BLOCK_K, WHOLE)
    if WHOLE:
        x_scale = tl.load(x_scale_ptr + above + row, mask=real, other=0.0)[:, None]
        total = _dequantise(total, x_scale, weight_scale_ptr, bias_ptr, column[None, :])
    elif bias_ptr is not None:
        total += tl.load(bias_ptr + column).to(tl.float32)[None, :]
    if GLU:
        value, gate = tl.split(tl.reshape(total, [BLOCK_M, WIDTH, 2]))
        total = value / (1.0 + tl.exp(-gate))

    width = columns // 2 if GLU else columns
    y_ptrs = y_ptr + above * width + row[:, None] * width
    if residual_ptr is not None:
        residual_ptr += above * residual_stride + row[:, None] * residual_stride
    # the largest tile goes out by halves: its sums and its residual together do not fit into the registers
    if BLOCK_M * WIDTH > 128 * 128:
        left, right = tl.split(tl.permute(tl.reshape(total, [BLOCK_M, 2, WIDTH // 2]), [0, 2, 1]))
        out = (tile_n * WIDTH + tl.arange(0, WIDTH // 2))[None, :]
        _finish(left, residual_ptr, y_ptrs, out, real[:, None] & (out < width), scale, ACTIVATION)
        out += WIDTH // 2
        _finish(right, residual_ptr, y_ptrs, out, real[:, None] & (out < width), scale, ACTIVATION)
    else:
        out = (tile_n * WIDTH + tl.arange(0, WIDTH))[None, :]
        _finish(total, residual_ptr, y_ptrs, out, real[:, None] & (out < width), scale, ACTIVATION)


@jit
def _chain(
    x_ptrs,
    weight_ptrs,
    real,
    k,
    first,
    last,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    WHOLE: tl.constexpr = False,
):
    """x · Wᵀ over first … last − 1 of the reduction, float32 [BLOCK_M, BLOCK_N]; int32 of WHOLE numbers."""
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.int32 if WHOLE else tl.float32)
    for start in range(first, last, BLOCK_K):
        inside = (start + k < last)[None, :]
        x = tl.load(x_ptrs + start, mask=real[:, None] & inside, other=0)
        weight = tl.load(weight_ptrs + start, mask=inside, other=0)
        if WHOLE:
            total = tl.dot(x, tl.trans(weight), total, out_dtype=tl.int32)
        else:
            total = tl.dot(x, tl.trans(weight), total, input_precision="ieee")
    return total


@jit
def _dequantise(total, x_scale, weight_scale_ptr, bias_ptr, column):
    """Sums of whole numbers → float32, with the bias."""
    value = total.to(tl.float32) * tl.load(weight_scale_ptr + column)
    if bias_ptr is not None:
        value = tl.fma(value, x_scale, tl.load(bias_ptr + column).to(tl.float32))  # said, as in _finish
    else:
        value *= x_scale
    return value


@jit
def _finish(value, residual_ptr, y_ptr, out, mask, scale, ACTIVATION: tl.constexpr):
    if ACTIVATION == "relu":
        value = tl.where(value < 0.0, 0.0, value)  # a NaN stays
    elif ACTIVATION == "silu":
        value = value / (1.0 + tl.exp(-value))
    if residual_ptr is not None:
        residual = tl.load(residual_ptr + out, mask=mask, other=0.0).to(tl.float32)
        value = tl.fma(value, scale, residual)  # said, not left to the compiler: both kernels must round alike
    else:
        value = value * scale
    tl.store(y_ptr + out, value.to(y_ptr.dtype.element_ty), mask=mask)


@jit(do_not_specialize=["rows"])
def _sum_kernel(
    sums_ptr,  # [CHUNKS, rows, columns]
    x_scale_ptr,
    weight_scale_ptr,
    bias_ptr,
    residual_ptr,
    y_ptr,
    rows,
    columns,
    residual_stride,
    scale,
    ACTIVATION: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    GLU: tl.constexpr = ACTIVATION == "glu"
    width = columns // 2 if GLU else columns
    row = tl.program_id(0).to(tl.int64)
    out = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = out < width
    step = rows.to(tl.int64) * columns
    sums_ptr += row * columns
    x_scale = None
    if x_scale_ptr is not None:
        x_scale = tl.load(x_scale_ptr + row)
    column = tl.minimum(out, width - 1)
    total = _sum(sums_ptr, x_scale, weight_scale_ptr, bias_ptr, column, step, CHUNKS, BLOCK)
    if GLU:
        gate = _sum(sums_ptr, x_scale, weight_scale_ptr, bias_ptr, width + column, step, CHUNKS, BLOCK)
        total = total / (1.0 + tl.exp(-gate))
    if residual_ptr is not None:
        residual_ptr += row * residual_stride
    _finish(total, residual_ptr, y_ptr + row * width, out, mask, scale, ACTIVATION)


@jit
def _sum(sums_ptr, x_scale, weight_scale_ptr, bias_ptr, column, step, CHUNKS: tl.constexpr, BLOCK: tl.constexpr):
    total = tl.zeros([BLOCK], sums_ptr.dtype.element_ty)
    for chunk in range(CHUNKS):
        total += tl.load(sums_ptr + chunk * step + column)
    if weight_scale_ptr is not None:
        total = _dequantise(total, x_scale, weight_scale_ptr, bias_ptr, column)
    elif bias_ptr is not None:
        total += tl.load(bias_ptr + column).to(tl.float32)
    return total


def _triton(
    x: torch.Tensor,
    weight: torch.Tensor | Int8,
    bias: torch.Tensor | None = None,
    *,
    activation: Activation | None = None,
    residual: torch.Tensor | None = None,
    scale: float = 1.0,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    weight, weight_scale = (weight.values, weight.scale) if isinstance(weight, Int8) else (weight, None)
    rows, (columns, inner) = x.shape[0], weight.shape
    width = columns // 2 if activation == "glu" else columns
    y = torch.empty(rows, width, dtype=out_dtype or x.dtype, device=x.device)
    if not rows:
        return y
    x, x_scale = (dense(x), None) if weight_scale is None else quantize_rows(x)
    residual = None if residual is None else dense(residual)
    config = config_for("linear", (columns, inner), x.dtype, x.device)
    if weight_scale is not None:  # the largest tile would spill
        config["TILES"] = [sizes for sizes in config["TILES"] if sizes[0] * sizes[1] <= 128 * 128]
    chunk = config["CHUNK"] if inner > config["CHUNK"] else 0
    chunks = triton.cdiv(inner, chunk) if chunk else 1
    tile, split = _schedule(rows, columns, chunks, config)
    tiles = triton.cdiv(rows, tile["BLOCK_M"]) * triton.cdiv(columns, tile["BLOCK_N"])
    kind = torch.float32 if weight_scale is None else torch.int32
    sums = torch.empty(chunks, rows, columns, dtype=kind, device=x.device) if split else y
    residual_stride = 0 if residual is None else residual.stride(0)
    _product_kernel[(tiles, chunks if split else 1)](
        x,
        weight,
        x_scale,
        weight_scale,
        bias,
        residual,
        sums,
        rows,
        columns,
        inner,
        x.stride(0),
        residual_stride,
        scale,
        ACTIVATION=activation,
        CHUNK=chunk,
        SPLIT=split,
        BAND=_BAND,
        enable_fp_fusion=config["enable_fp_fusion"],
        **tile,
    )
    if split:
        _sum_kernel[(rows, triton.cdiv(width, _SUM_BLOCK))](
            sums,
            x_scale,
            weight_scale,
            bias,
            residual,
            y,
            rows,
            columns,
            residual_stride,
            scale,
            ACTIVATION=activation,
            CHUNKS=chunks,
            BLOCK=_SUM_BLOCK,
            num_warps=_SUM_BLOCK // 128,
            enable_fp_fusion=config["enable_fp_fusion"],
        )
    return y


def _schedule(rows: int, columns: int, chunks: int, config: dict[str, Any]) -> tuple[dict[str, int], bool]:
    """The tile, and whether each chunk of it is a program: the largest tile that gives the GPU enough programs."""
    tile: dict[str, int] = {}
    for sizes in config["TILES"]:
        tile = dict(zip(_TILE, sizes, strict=True))
        tiles = triton.cdiv(rows, tile["BLOCK_M"]) * triton.cdiv(columns, tile["BLOCK_N"])
        for split in (False, True) if chunks > 1 else (False,):
            if tile["BLOCK_M"] <= max(rows, 64) and tiles * (chunks if split else 1) >= config["PROGRAMS"]:
                return tile, split
    return tile, chunks > 1


def pack_weight(weight: torch.Tensor) -> torch.Tensor | PackedWeight:
    """`weight` [out, in] in the layout in which `linear` reads it fastest on its device. Done once, at load."""
    return pack(weight) if backend_for(weight.device, IMPLS) == "native" else weight.contiguous()


def pack_weight_int8(weight: torch.Tensor) -> Int8:
    """`weight` [out, in] in 8 bits, as `linear` reads it."""
    packed = Int8(*quantize_rows(weight))
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
    """residual + scale · activation(x · Wᵀ + bias), [rows, out] in x's dtype or in float32 by `out_dtype`.

    `weight` is as `pack_weight` or `pack_weight_int8` left it, in x's dtype. The result is rounded once, at the end.
    """
    call: Any
    if isinstance(weight, PackedWeight):
        call = product
    elif isinstance(weight, Int8):
        call = INT8_IMPLS["onednn" if weight.values.is_mkldnn else backend_for(x.device, _INT8_PLAIN)]
    else:
        call = IMPLS[backend_for(x.device, _PLAIN)]
    return call(x, weight, bias, activation=activation, residual=residual, scale=scale, out_dtype=out_dtype)


def logits(hidden: torch.Tensor, head: LinearWeight) -> torch.Tensor:
    """hidden · headᵀ in float32 [rows, out], which hidden need not be."""
    if not isinstance(head, Int8):
        hidden = hidden.to(head.dtype)
    return linear(hidden, head, out_dtype=torch.float32)


# Those that read a weight as it comes from the checkpoint; the others read what was packed for them alone.
_PLAIN: dict[str, Any] = {"torch": reference, "triton": _triton}
_INT8_PLAIN: dict[str, Any] = {"torch": product_int8, "triton": _triton}
IMPLS: dict[str, Any] = _PLAIN | ({"native": product} if csrc else {})
INT8_IMPLS: dict[str, Any] = _INT8_PLAIN | {"onednn": product_int8}
