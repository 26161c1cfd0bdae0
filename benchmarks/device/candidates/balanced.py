"""linear for the numbers of rows at which the tiles of `persistent` do not fill their last wave.

A wave is a tile for each of the 132 multiprocessors. A decode step of 1280 beams leaves a part of them idle:

    fc1 (1024 to 8192)   320 tiles of 128 × 256, 2.42 waves, so 3: 81 % busy
    fc2 (8192 to 1024)   80 tiles of 128 × 128 with 4 chunks each, 320 sums, 2.42 waves. Ours stores all 320 in float32
                         and adds them in a second launch, 42 MB written and read

1. Where the sum is in one piece, as many rows as fill full waves have the largest tile, and the rest 128 × 128 in a
   second launch: for fc1 1024 rows in 2 waves, and 256 in half a one, 2.5 in place of 3.
2. Where it is in chunks, a program adds as many chunks of its tile as there are waves, and other programs have one each
   of the chunks that are left: for fc2 80 programs add 3 chunks, and 80 sums of a last chunk fill the other 52
   multiprocessors. The time is that of 3 waves, as in ours, with half of the bytes.

The bits are those of ours: chunks have a fixed length, and their sums are added in their order, by whichever program.
That is also why stream-K is not possible: it cuts a sum where the share of a multiprocessor ends, which depends on the
number of rows. Here a share ends between chunks. Chunks of 1024 instead of 2048 would make 2.5 waves of fc2, 17 % less
time, but other bits than today's, and 4 stored sums a tile again, because 3 of 8 chunks are left to other programs.

Predictions, not yet measured, for the 24 layers of a decode step of 256 × 5 beams, 7.7 ms: fc1 −0.09 ms, fc2 −0.12 ms,
beside what `persistent` gains. The step of 1 × 5 beams and an encoder pass (95 % busy) do not change.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.device.candidates import Candidate
from benchmarks.device.candidates.decode_step import sum_kernel
from benchmarks.device.candidates.persistent import (
    aligned,
    available,
    chunk_of,
    launch,
    require_descriptors,
    sms_of,
    tiles,
)
from benchmarks.device.candidates.proofs import prove_linear
from seamless_kernels.config import config_for
from seamless_kernels.jit import jit, tl, triton
from seamless_kernels.layout import unit_stride
from seamless_kernels.linear import TILE, Activation, schedule

_SMALLER = 0.85  # predicted speed of a tile of half the size, by the bytes that it reads again


@jit(do_not_specialize=["M", "FIRST"])
def _chunks_kernel(
    desc_x,  # [M, K]
    desc_w,  # [N, K]
    sums_ptr,  # [programs of a tile, M, N]
    M,
    N,
    K,
    FIRST,  # chunks that the first program of a tile adds; each other has one
    CHUNK: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    tiles_m = tl.cdiv(M, BLOCK_M)
    start_m, start_n = tl.program_id(0) % tiles_m * BLOCK_M, tl.program_id(0) // tiles_m * BLOCK_N
    part = tl.program_id(1)
    first = tl.where(part == 0, 0, FIRST + part - 1)
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for chunk in range(first, FIRST + part):
        chunk_acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for k in range(chunk * CHUNK, tl.minimum(chunk * CHUNK + CHUNK, K), BLOCK_K):
            x, w = desc_x.load([start_m, k]), desc_w.load([start_n, k])
            chunk_acc = tl.dot(x, w.T, chunk_acc)
        acc += chunk_acc
    offs_m, offs_n = start_m + tl.arange(0, BLOCK_M)[:, None], start_n + tl.arange(0, BLOCK_N)[None, :]
    sums_ptrs = sums_ptr + (part * M + offs_m).to(tl.int64) * N + offs_n
    tl.store(sums_ptrs, acc, mask=(offs_m < M) & (offs_n < N))


def run(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    activation: Activation | None = None,
    residual: torch.Tensor | None = None,
    scale: float = 1.0,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """`linear` for x of 16 bits. Raises NotImplementedError where a descriptor cannot describe x, weight or result."""
    M, (N, K) = x.shape[0], weight.shape
    y = x.new_empty(M, N // 2 if activation == "glu" else N, dtype=out_dtype or x.dtype)
    require_descriptors(x, K, y)
    if not M:
        return y
    x = aligned(x)
    config = config_for("linear", (N, K), x.dtype, x.device)
    chunk, sms = chunk_of(config, K), sms_of(x.device)
    chunks = triton.cdiv(K, chunk) if chunk else 1
    sizes = tiles(y, chunk)
    tile, _ = schedule(M, N, chunks, {"TILES": sizes, "PROGRAMS": config["PROGRAMS"]})
    first = triton.cdiv(_count(M, N, tile) * chunks, sms)
    if activation != "glu" and first < chunks:
        _in_parts(y, x, weight, bias, activation, residual, scale, config, tile, first)
        return y
    large, small = (dict[str, int](zip(TILE, numbers, strict=True)) for numbers in sizes[:2])
    rows = 0 if chunk else rows_of_full_waves(M, N, sms, large, small)
    for own, part in ((large, slice(0, rows)), (small, slice(rows, M))) if rows else ((tile, slice(0, M)),):
        added = None if residual is None else residual[part]
        launch(y[part], x[part], weight, bias, activation, added, scale, config, own)
    return y


def rows_of_full_waves(M: int, N: int, sms: int, large: dict[str, int], small: dict[str, int]) -> int:
    """How many rows the large tile computes, if the small one computes the rest in less time; else 0."""
    area = small["BLOCK_M"] * small["BLOCK_N"] / (large["BLOCK_M"] * large["BLOCK_N"]) / _SMALLER
    count = _count(M, N, large)
    rows = count // sms * sms // triton.cdiv(N, large["BLOCK_N"]) * large["BLOCK_M"]
    if not 0 < rows < M:
        return 0
    mixed = triton.cdiv(_count(rows, N, large), sms) + triton.cdiv(_count(M - rows, N, small), sms) * area
    return rows if mixed < triton.cdiv(count, sms) else 0


def _count(M: int, N: int, tile: dict[str, int]) -> int:
    return triton.cdiv(M, tile["BLOCK_M"]) * triton.cdiv(N, tile["BLOCK_N"])


def _in_parts(
    y: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activation: Activation | None,
    residual: torch.Tensor | None,
    scale: float,
    config: dict[str, Any],
    tile: dict[str, int],
    first: int,
) -> None:
    """The product of `run`, into y: a program adds the `first` chunks of a tile, other programs one chunk each."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    M, (N, K) = x.shape[0], weight.shape
    residual = None if residual is None else unit_stride(residual)
    parts = 1 + triton.cdiv(K, config["CHUNK"]) - first
    sums = x.new_empty(parts, M, N, dtype=torch.float32)
    BLOCK_M, BLOCK_N, BLOCK_K = (tile[name] for name in TILE[:3])
    _chunks_kernel[(_count(M, N, tile), parts)](
        TensorDescriptor.from_tensor(x, [BLOCK_M, BLOCK_K]),
        TensorDescriptor.from_tensor(weight, [BLOCK_N, BLOCK_K]),
        sums,
        M,
        N,
        K,
        first,
        CHUNK=config["CHUNK"],
        enable_fp_fusion=config["enable_fp_fusion"],
        **tile,
    )
    sum_kernel[(triton.cdiv(M, 4), triton.cdiv(N, 128))](
        sums,
        bias,
        residual,
        y,
        M,
        N,
        0 if residual is None else residual.stride(0),
        scale,
        ACTIVATION=activation,
        CHUNKS=parts,
        BLOCK_M=4,
        BLOCK_N=128,
        DEPENDENT=False,
        num_warps=4,
        enable_fp_fusion=config["enable_fp_fusion"],
    )


def prove(device: torch.device, quick: bool) -> str:
    return prove_linear(run, device, quick)


CANDIDATE = Candidate("balanced", "linear", available, run, prove)
