"""linear for many rows on sm_90: persistent programs, tiles copied by TMA, the epilogue beside the next tile's loads.

Ours starts a program for each tile: it fills its pipeline, multiplies and stores, and only then does the next program
begin on its multiprocessor. Its tiles are copied by `cp.async`, for which every thread computes addresses. Here each
multiprocessor has one program, which computes every P-th tile of P programs. The loops over tiles and over `in` are
flattened into one, so the loads of a tile are in flight while the tile before it is finished and stored. One thread
asks for a tile by its descriptor (`cp.async.bulk.tensor`), and the result is stored in the same way.

The bits are those of ours: an element is summed along `in` by instructions of 16 products each, in chunks of CHUNK
where `in` is longer, whose sums are added in their order. The number of rows decides only the tile and which program
computes it.

Predictions, not yet measured: at 16,000 rows of 1024, ours reaches 75 to 85 % of cuBLAS and this 90 to 95 %. The
encoder passes of 256 clips take 330 ms instead of 365, a decode step of 256 × 5 beams 7.4 ms instead of 7.7. With few
rows the bytes of the weight bind, and the decode step of 1 × 5 beams stays at 1.7 to 2.0 ms.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.device.candidates import Candidate
from benchmarks.device.candidates.proofs import prove_linear
from seamless_kernels.config import config_for, num_sms
from seamless_kernels.jit import interpreted, jit, tl, triton
from seamless_kernels.layout import unit_stride
from seamless_kernels.linear import TILE, Activation, schedule

_GROUP_M = 16
# With a residual the first one needs 242 KB of shared memory under Triton 3.4, which is more than there are.
_TILES = [[128, 256, 64, 8, 3], [128, 128, 64, 8, 4], [64, 128, 64, 4, 4], [64, 64, 128, 4, 4]]
_SMALL_TILES = _TILES[1:]  # two sums of the largest tile do not fit in the registers, nor its float32 beside x and W
_INTERPRETED_TILES = [[64, 64, 32, 4, 1], [32, 32, 32, 4, 1], [16, 32, 32, 4, 1]]
_INTERPRETED_SMS, _COMPILED_SMS = 4, 132  # the latter of an H100


@jit(do_not_specialize=["M"])
def _kernel(
    desc_x,  # [M, K]
    desc_w,  # [N, K]
    desc_y,  # [M, out]
    bias_ptr,
    residual_ptr,
    M,
    N,
    K,
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
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(out_features, BLOCK_OUT)
    chunks = tl.cdiv(K, CHUNK) if CHUNK else 1
    steps = tl.cdiv(CHUNK if CHUNK else K, BLOCK_K)
    acc = tl.zeros([BLOCK_M, BLOCK_OUT], tl.float32)
    gate = tl.zeros([BLOCK_M, BLOCK_OUT], tl.float32)
    # a unit is a chunk of a tile: two loops, the form that can be flattened
    programs = tl.num_programs(0)
    tiles = tl.cdiv(tiles_m * tiles_n - tl.program_id(0), programs)
    for unit in tl.range(0, tiles * chunks, flatten=True):
        tile = tl.program_id(0) + unit // chunks * programs
        chunk = unit % chunks
        group_id, in_group = tile // (GROUP_M * tiles_n), tile % (GROUP_M * tiles_n)
        group_size_m = tl.minimum(tiles_m - group_id * GROUP_M, GROUP_M)
        start_m = (group_id * GROUP_M + in_group % group_size_m) * BLOCK_M
        start_n = in_group // group_size_m * BLOCK_OUT
        chunk_acc = tl.zeros([BLOCK_M, BLOCK_OUT], tl.float32)
        chunk_gate = tl.zeros([BLOCK_M, BLOCK_OUT], tl.float32)
        for step in range(steps):
            k = chunk * CHUNK + step * BLOCK_K
            x = desc_x.load([start_m, k])
            chunk_acc = tl.dot(x, desc_w.load([start_n, k]).T, chunk_acc, input_precision="ieee")
            if GLU:
                w = desc_w.load([start_n + out_features, k])
                chunk_gate = tl.dot(x, w.T, chunk_gate, input_precision="ieee")
        if CHUNK:
            acc = tl.where(chunk == 0, 0.0, acc) + chunk_acc
            gate = tl.where(chunk == 0, 0.0, gate) + chunk_gate
        else:
            acc = chunk_acc
            gate = chunk_gate
        if chunk == chunks - 1:
            if BLOCK_M * BLOCK_OUT > 128 * 128:
                left, right = tl.split(tl.permute(tl.reshape(acc, [BLOCK_M, 2, BLOCK_OUT // 2]), [0, 2, 1]))
                y = epilogue(
                    left, gate, bias_ptr, residual_ptr, start_m, start_n, M, out_features, stride_rm, scale, ACTIVATION
                )
                desc_y.store([start_m, start_n], y.to(desc_y.dtype))
                start_n += BLOCK_OUT // 2
                y = epilogue(
                    right, gate, bias_ptr, residual_ptr, start_m, start_n, M, out_features, stride_rm, scale, ACTIVATION
                )
                desc_y.store([start_m, start_n], y.to(desc_y.dtype))
            else:
                y = epilogue(
                    acc, gate, bias_ptr, residual_ptr, start_m, start_n, M, out_features, stride_rm, scale, ACTIVATION
                )
                desc_y.store([start_m, start_n], y.to(desc_y.dtype))


@jit
def epilogue(
    acc,
    gate,
    bias_ptr,
    residual_ptr,
    start_m,
    start_n,
    M,
    out_features,
    stride_rm,
    scale,
    ACTIVATION: tl.constexpr,
):
    """The results of a part of a tile, float32, from its sums and, for GLU, from those of its gates."""
    offs_n = start_n + tl.arange(0, acc.shape[1])
    n_mask = offs_n < out_features
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + offs_n, mask=n_mask, other=0.0).to(tl.float32)[None, :]
    if ACTIVATION == "relu":
        acc = tl.where(acc < 0.0, 0.0, acc)  # a NaN stays
    elif ACTIVATION == "silu":
        acc = acc / (1.0 + tl.exp(-acc))
    elif ACTIVATION == "glu":
        if bias_ptr is not None:
            gate += tl.load(bias_ptr + out_features + offs_n, mask=n_mask, other=0.0).to(tl.float32)[None, :]
        acc = acc / (1.0 + tl.exp(-gate))
    if residual_ptr is not None:
        offs_m = start_m + tl.arange(0, acc.shape[0])
        mask = (offs_m < M)[:, None] & n_mask[None, :]
        residual_ptrs = residual_ptr + offs_m.to(tl.int64)[:, None] * stride_rm + offs_n[None, :]
        return tl.fma(acc, scale, tl.load(residual_ptrs, mask=mask, other=0.0).to(tl.float32))
    return acc * scale


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
    if M:
        config = config_for("linear", (N, K), x.dtype, x.device)
        tile, _ = schedule(M, N, 1, {"TILES": tiles(y, chunk_of(config, K)), "PROGRAMS": config["PROGRAMS"]})
        launch(y, aligned(x), weight, bias, activation, residual, scale, config, tile)
    return y


def tiles(y: torch.Tensor, chunk: int) -> list[list[int]]:
    """The tiles for a result y, the largest first."""
    if y.device.type == "cpu":
        return _INTERPRETED_TILES
    return _SMALL_TILES if chunk or y.dtype.itemsize > 2 else _TILES


def chunk_of(config: dict[str, Any], inner: int) -> int:
    """The length of a chunk of the sum, 0 for a sum in one piece."""
    return config["CHUNK"] if inner > config["CHUNK"] else 0


def launch(
    y: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activation: Activation | None,
    residual: torch.Tensor | None,
    scale: float,
    config: dict[str, Any],
    tile: dict[str, int],
) -> None:
    """The product of `run`, into y, by programs with this tile."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    M, (N, K) = x.shape[0], weight.shape
    residual = None if residual is None else unit_stride(residual)
    BLOCK_M, BLOCK_N, BLOCK_K = (tile[name] for name in TILE[:3])
    block_out = BLOCK_N // 2 if activation == "glu" else BLOCK_N
    stored = block_out // 2 if BLOCK_M * block_out > 128 * 128 else block_out
    count = triton.cdiv(M, BLOCK_M) * triton.cdiv(y.shape[1], block_out)
    _kernel[(min(sms_of(x.device), count),)](
        TensorDescriptor.from_tensor(x, [BLOCK_M, BLOCK_K]),
        TensorDescriptor.from_tensor(weight, [block_out, BLOCK_K]),
        TensorDescriptor.from_tensor(y, [BLOCK_M, stored]),
        bias,
        residual,
        M,
        N,
        K,
        0 if residual is None else residual.stride(0),
        scale,
        ACTIVATION=activation,
        CHUNK=chunk_of(config, K),
        GROUP_M=_GROUP_M,
        enable_fp_fusion=config["enable_fp_fusion"],
        **tile,
    )


def sms_of(device: torch.device) -> int:
    """Multiprocessors; of an H100 for device "meta", for which kernels are compiled."""
    return _COMPILED_SMS if device.type == "meta" else num_sms(device, _INTERPRETED_SMS)


def require_descriptors(x: torch.Tensor, inner: int, y: torch.Tensor) -> None:
    """Raises NotImplementedError unless rows of `inner` numbers and of the result y begin at multiples of 16 bytes."""
    if x.dtype.itemsize != 2:
        raise NotImplementedError("x has 16 bits")
    if inner * x.dtype.itemsize % 16 or y.shape[1] * y.dtype.itemsize % 16:
        raise NotImplementedError("rows must begin at multiples of 16 bytes")


def aligned(x: torch.Tensor) -> torch.Tensor:
    """x, copied if its rows do not begin at multiples of 16 bytes."""
    fits = x.stride(1) == 1 and x.stride(0) * x.dtype.itemsize % 16 == 0 and x.data_ptr() % 16 == 0
    return x if fits and x.stride(0) >= x.shape[1] else x.clone(memory_format=torch.contiguous_format)


def available(device: torch.device) -> str:
    """As `Candidate.available`: for kernels of Triton that need compute capability 9."""
    if device.type == "cuda":
        found = torch.cuda.get_device_capability(device)[0] == 9
    else:
        found = device.type == "meta" or interpreted()
    return "" if found else "it needs a GPU of compute capability 9"


def prove(device: torch.device, quick: bool) -> str:
    return prove_linear(run, device, quick)


CANDIDATE = Candidate("persistent", "linear", available, run, prove)
