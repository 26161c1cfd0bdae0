"""linear for many rows on sm_90: as `persistent`, and the warps of a program have different tasks.

One group of four warps copies tiles by TMA, and two others multiply, each 64 rows of the tile with 232 registers a
thread. The group that copies runs ahead by as many tiles as fit in the shared memory, so it loads the next tile of the
result while the epilogue of this one runs. Triton divides the tasks (`warp_specialize`). On sm_90 that needs
`num_warps=4`, loops that are not flattened, and descriptors that the kernel makes itself: with others Triton 3.6 and
3.9 ignore the request or fail to compile.

The bits are those of ours, for the reasons that `persistent` gives.

Predictions, not yet measured: as for `persistent`, and 2 to 5 % less time where `in` is 1024 and the epilogue long.
The encoder passes of 256 clips take 320 ms instead of 365, a decode step of 256 × 5 beams 7.3 ms instead of 7.7. The
decode step of 1 × 5 beams is no faster.
"""

from __future__ import annotations

import torch

from benchmarks.device.candidates import Candidate
from benchmarks.device.candidates.persistent import (
    aligned,
    available,
    chunk_of,
    epilogue,
    require_descriptors,
    sms_of,
)
from benchmarks.device.candidates.proofs import prove_linear
from seamless_kernels.config import config_for
from seamless_kernels.jit import jit, tl, triton
from seamless_kernels.layout import unit_stride
from seamless_kernels.linear import Activation, schedule

_GROUP_M = 16
_TILES = [[128, 256, 64, 4, 3], [128, 128, 64, 4, 4]]
_SMALL_TILES = _TILES[1:]  # two sums, or the sums and the residual, of the largest tile do not fit in the registers
_INTERPRETED_TILES = [[64, 64, 32, 4, 1], [32, 32, 32, 4, 1]]


@jit(do_not_specialize=["M"])
def _kernel(
    x_ptr,
    w_ptr,
    bias_ptr,
    residual_ptr,
    y_ptr,
    M,
    N,
    K,
    stride_xm,
    stride_rm,
    scale,
    ACTIVATION: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    GLU: tl.constexpr = ACTIVATION == "glu"
    BLOCK_OUT: tl.constexpr = BLOCK_N // 2 if GLU else BLOCK_N
    out_features = N // 2 if GLU else N
    desc_x = tl.make_tensor_descriptor(x_ptr, [M, K], [stride_xm, 1], [BLOCK_M, BLOCK_K])
    desc_w = tl.make_tensor_descriptor(w_ptr, [N, K], [K, 1], [BLOCK_OUT, BLOCK_K])
    desc_y = tl.make_tensor_descriptor(y_ptr, [M, out_features], [out_features, 1], [BLOCK_M, BLOCK_OUT])
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(out_features, BLOCK_OUT)
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), warp_specialize=True):
        group_id, in_group = tile // (GROUP_M * tiles_n), tile % (GROUP_M * tiles_n)
        group_size_m = tl.minimum(tiles_m - group_id * GROUP_M, GROUP_M)
        start_m = (group_id * GROUP_M + in_group % group_size_m) * BLOCK_M
        start_n = in_group // group_size_m * BLOCK_OUT
        acc = tl.zeros([BLOCK_M, BLOCK_OUT], tl.float32)
        gate = tl.zeros([BLOCK_M, BLOCK_OUT], tl.float32)
        if CHUNK:
            for start_k in range(0, K, CHUNK):
                chunk_acc = tl.zeros([BLOCK_M, BLOCK_OUT], tl.float32)
                chunk_gate = tl.zeros([BLOCK_M, BLOCK_OUT], tl.float32)
                for k in range(start_k, tl.minimum(start_k + CHUNK, K), BLOCK_K):
                    x = desc_x.load([start_m, k])
                    chunk_acc = tl.dot(x, desc_w.load([start_n, k]).T, chunk_acc)
                    if GLU:
                        chunk_gate = tl.dot(x, desc_w.load([start_n + out_features, k]).T, chunk_gate)
                acc += chunk_acc
                gate += chunk_gate
        else:
            for k in range(0, K, BLOCK_K):
                x = desc_x.load([start_m, k])
                acc = tl.dot(x, desc_w.load([start_n, k]).T, acc)
                if GLU:
                    gate = tl.dot(x, desc_w.load([start_n + out_features, k]).T, gate)
        y = epilogue(acc, gate, bias_ptr, residual_ptr, start_m, start_n, M, out_features, stride_rm, scale, ACTIVATION)
        desc_y.store([start_m, start_n], y.to(desc_y.dtype))


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
    out_features = N // 2 if activation == "glu" else N
    y = x.new_empty(M, out_features, dtype=out_dtype or x.dtype)
    require_descriptors(x, K, y)
    if not M:
        return y
    x = aligned(x)
    residual = None if residual is None else unit_stride(residual)
    config = config_for("linear", (N, K), x.dtype, x.device)
    chunk = chunk_of(config, K)
    wide = y.dtype.itemsize > 2  # the shared memory has no room for the largest tile of float32
    tiles = _SMALL_TILES if chunk or residual is not None or wide else _TILES
    tiles = _INTERPRETED_TILES if x.device.type == "cpu" else tiles
    tile, _ = schedule(M, N, 1, {"TILES": tiles, "PROGRAMS": config["PROGRAMS"]})
    block_out = tile["BLOCK_N"] // 2 if activation == "glu" else tile["BLOCK_N"]
    count = triton.cdiv(M, tile["BLOCK_M"]) * triton.cdiv(out_features, block_out)
    triton.set_allocator(_scratch)
    _kernel[(min(sms_of(x.device), count),)](
        x,
        weight,
        bias,
        residual,
        y,
        M,
        N,
        K,
        x.stride(0),
        0 if residual is None else residual.stride(0),
        scale,
        ACTIVATION=activation,
        CHUNK=chunk,
        GROUP_M=_GROUP_M,
        enable_fp_fusion=config["enable_fp_fusion"],
        **tile,
    )
    return y


def _scratch(size: int, alignment: int, stream: int | None) -> torch.Tensor:
    """The memory in which the programs of a launch make their descriptors."""
    return torch.empty(size, dtype=torch.int8, device="cuda")


def prove(device: torch.device, quick: bool) -> str:
    return prove_linear(run, device, quick)


CANDIDATE = Candidate("warp-specialized", "linear", available, run, prove)
