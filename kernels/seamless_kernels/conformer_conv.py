"""The middle of the Conformer convolution module over packed segments, between its two pointwise products.

    y = GLU(x);  z[t] = Σ_τ w[τ] · y[t − (k−1) + τ]  (causal, depthwise);  out = SiLU(LayerNorm(z))
    x [total, 2·dim], w [dim, k], cu_seqlens int32 [n + 1]  →  [total, dim]

Taps before the start of a segment read zero. Rows from valid[i] on (the half-real frame) count as zero.

A program of the kernel has ROWS rows of one segment in all channels, since LayerNorm needs them all. It reads the rows
from k − 1 before its first to its last, gates each once, and adds it to every sum that it belongs to. Sums and weights
stay in registers, a few channels a thread: rows are names of the program, not an axis of a tensor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from seamless_kernels.config import config_for
from seamless_kernels.dispatch import backend_for
from seamless_kernels.flash import ONE_CHUNK, locate, tiles_at_most
from seamless_kernels.jit import jit, tl, triton
from seamless_kernels.precision import compute_dtype

_EPS = 1e-5
_LARGEST = 1024  # channels: a program holds whole rows in registers


def reference(
    x: torch.Tensor,
    depthwise_weight: torch.Tensor,
    norm_weight: torch.Tensor,
    norm_bias: torch.Tensor,
    cu_seqlens: torch.Tensor,
    valid: torch.Tensor,
) -> torch.Tensor:
    dim, taps = depthwise_weight.shape
    bounds = cu_seqlens.tolist()
    out = x.new_empty(x.shape[0], dim)
    x, depthwise_weight, norm_weight, norm_bias = (
        tensor.to(compute_dtype(x)) for tensor in (x, depthwise_weight, norm_weight, norm_bias)
    )
    weight = depthwise_weight[:, None].contiguous()  # once, not by F.conv1d for each segment
    for start, end, count in zip(bounds, bounds[1:], valid.tolist(), strict=False):
        if start == end:
            continue
        gated = x.new_zeros(taps - 1 + end - start, dim)
        gated[taps - 1 : taps - 1 + count] = F.glu(x[start : start + count], dim=-1)
        mixed = F.conv1d(gated.T[None], weight, groups=dim)[0].T  # [T, dim]
        out[start:end] = F.silu(F.layer_norm(mixed, (dim,), norm_weight, norm_bias, _EPS))
    return out


@jit
def _by_sigmoid(value, gate):
    """value · sigmoid(gate) = value · (1 + 2^(−gate · log2 e))^−½ squared, in six instructions for eleven."""
    root = tl.rsqrt(1.0 + tl.exp2(gate * -1.4426950408889634))
    return value * root * root


@jit
def _gated(x_row, inside, channels, DIM: tl.constexpr):
    """GLU of a row, float32 [channels]; zero outside."""
    value = tl.load(x_row + channels, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(x_row + DIM + channels, mask=inside, other=0.0).to(tl.float32)
    return _by_sigmoid(value, gate)


@jit
def _side_by_side(rows, CHANNELS: tl.constexpr, ROWS: tl.constexpr):
    """[CHANNELS, ROWS] of a tuple of ROWS (2, 4, 8 or 16) vectors, without moving data between threads."""
    for level in tl.static_range(1, 5):
        if ROWS >> level > 0:
            pairs = (tl.join(rows[0], rows[ROWS >> level]),)
            for j in tl.static_range(1, ROWS >> level):
                pairs = pairs + (tl.join(rows[j], rows[j + (ROWS >> level)]),)
            rows = pairs
    return tl.reshape(rows[0], CHANNELS, ROWS)


@jit(do_not_specialize=["segments"])
def _kernel(
    x_ptr,
    taps_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    cu_seqlens,
    valid_ptr,
    segments,
    chunk,
    eps,
    X_STRIDE: tl.constexpr,
    DIM: tl.constexpr,
    TAPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
):
    segment, tile = locate(cu_seqlens, segments, tl.program_id(0), chunk, ROWS)
    start = tl.load(cu_seqlens + segment)
    length = tl.load(cu_seqlens + segment + 1) - start
    first = tile * ROWS
    if first >= length:
        return
    real = tl.load(valid_ptr + segment)
    channels = tl.arange(0, CHANNELS)
    inside = channels < DIM
    taps = ()
    for tap in tl.static_range(TAPS):
        taps = taps + (tl.load(taps_ptr + tap * DIM + channels, mask=inside, other=0.0).to(tl.float32),)
    sums = ()
    for _ in tl.static_range(ROWS):
        sums = sums + (tl.zeros([CHANNELS], tl.float32),)
    x_first = x_ptr + (start + first).to(tl.int64) * X_STRIDE
    for k in tl.static_range(ROWS + TAPS - 1):
        row = first + k - (TAPS - 1)
        y = _gated(x_first + (k - (TAPS - 1)) * X_STRIDE, inside & (row >= 0) & (row < real), channels, DIM)
        for j in tl.static_range(ROWS):
            if k - j >= 0 and k - j < TAPS:
                sums = sums[:j] + (sums[j] + taps[k - j] * y,) + sums[j + 1 :]
    z = _side_by_side(sums, CHANNELS, ROWS)
    mean = tl.sum(z, axis=0) / DIM
    centred = tl.where(inside[:, None], z - mean[None, :], 0.0)
    variance = tl.sum(centred * centred, axis=0) / DIM
    weight = tl.load(weight_ptr + channels, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + channels, mask=inside, other=0.0).to(tl.float32)
    normed = centred * tl.rsqrt(variance + eps)[None, :] * weight[:, None] + bias[:, None]
    out = _by_sigmoid(normed, normed)
    rows = first + tl.arange(0, ROWS)
    target = out_ptr + (start + rows).to(tl.int64)[None, :] * DIM + channels[:, None]
    tl.store(target, out.to(out_ptr.dtype.element_ty), mask=inside[:, None] & (rows < length)[None, :])


def _triton(
    x: torch.Tensor,
    depthwise_weight: torch.Tensor,
    norm_weight: torch.Tensor,
    norm_bias: torch.Tensor,
    cu_seqlens: torch.Tensor,
    valid: torch.Tensor,
) -> torch.Tensor:
    dim, taps = depthwise_weight.shape
    total, segments = x.shape[0], cu_seqlens.numel() - 1
    x = x if x.stride(1) == 1 else x.contiguous()
    out = x.new_empty(total, dim)
    config = config_for("conformer_conv", (dim, taps), x.dtype, x.device)
    tiles = tiles_at_most(total, segments, config["ROWS"], ONE_CHUNK)
    if tiles:
        _kernel[(tiles,)](
            x,
            depthwise_weight.T.contiguous(),  # a copy unless the weight lies tap by tap
            norm_weight,
            norm_bias,
            out,
            cu_seqlens,
            valid,
            segments,
            ONE_CHUNK,
            _EPS,
            X_STRIDE=x.stride(0),
            DIM=dim,
            TAPS=taps,
            CHANNELS=triton.next_power_of_2(dim),
            **config,
        )
    return out


def conformer_conv(
    x: torch.Tensor,
    depthwise_weight: torch.Tensor,
    norm_weight: torch.Tensor,
    norm_bias: torch.Tensor,
    cu_seqlens: torch.Tensor,
    valid: torch.Tensor,
) -> torch.Tensor:
    """[total, dim] from x [total, 2·dim]; valid int [n]: the rows of each segment that are whole.

    On a GPU depthwise_weight [dim, k] is read best from memory in the order [k, dim], as `w.T.contiguous().T`.
    """
    name = backend_for(x.device, IMPLS)
    if name == "triton" and depthwise_weight.shape[0] > _LARGEST:
        name = "torch"
    return IMPLS[name](x, depthwise_weight, norm_weight, norm_bias, cu_seqlens, valid)


IMPLS = {"torch": reference, "triton": _triton}
