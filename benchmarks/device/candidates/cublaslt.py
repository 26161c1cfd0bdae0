"""`linear` by cuBLASLt, with one pinned algorithm for each product, whatever the number of rows.

What it changes: the matrix product is NVIDIA's kernel instead of ours. cuBLASLt's heuristic, asked anew for each number
of rows, gives a row other bits in another batch. Here it is asked once for each product (dims, dtypes, epilogue), for
REFERENCE_ROWS rows, and the algorithm that it names runs for any number of rows.

Why a row then has the same bits in any batch. An algorithm is a kernel with its tile, its stages and its cluster. One
program computes an element of the result, along the whole reduction, by the same instructions in the same order for
every tile. Algorithms in which several programs share a sum are refused: split-K, by its attributes, and anything else
by the workspace that the shares need. What still depends on the number of rows changes no sum: how many tiles there
are, the order in which programs take them (swizzling), and which programs share their loads (the cluster). NVIDIA
documents none of this, so `prove` compares bits on a card. vLLM relies on the same for sm_90 and sm_100, and not for
sm_80 (vllm/model_executor/layers/batch_invariant.py).

The epilogue is cuBLASLt's where it has one: bias, ReLU (if it keeps NaN), and a residual, which is added by its beta.
Otherwise (SiLU, GLU, a bias of another dtype than the result's) the sums are stored in float32, and the kernel that
adds the chunks of our split-K finishes them. Operands are as in a checkpoint: x [rows, in], W [out, in], row-major.

A call allocates its result and no workspace, and does not synchronize: it can be captured, and several streams may run
calls at once. An algorithm is chosen at the first call of a product, which must not be captured. A call with bias and
residual took 7.6 µs on one core of an Intel Xeon, 1.3 µs of them in csrc, with a library that does nothing.

Prediction, not yet measured, for an H100 in bfloat16 (cuBLAS at 700 TFLOP/s, our kernel at 80 % of that):

    256 × S2ST, encoder pass: 128,000 tokens, 148 TFLOP in 24 layers; the floor is 150 ms
        today                                       265 ms
        cuBLASLt for all products                   212 ms, and 84 ms for sums in float32 before SiLU and GLU
        cuBLASLt where the epilogue is fused        235 ms: the rest stays ours
    256 × S2ST, decode step: 1,280 beams, 1.4 TFLOP without the head; the floor is 1.4 ms
        about 2 ms slower than today: tiles of 128 × 256, the best for 16,000 rows, leave 92 of 132 processors idle
        where the result has 1024 columns. With a second algorithm for few rows it would be as fast as today; `prove`
        says whether that one has the same bits.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.device.candidates import Candidate
from benchmarks.device.candidates.proofs import prove_linear
from benchmarks.kernels.case import DIM, MODEL
from benchmarks.kernels.products import PRODUCTS, QUICK, Product
from seamless_kernels.jit import triton
from seamless_kernels.layout import unit_stride
from seamless_kernels.linear import Activation, _sum_kernel
from seamless_kernels.native import csrc_cuda

REFERENCE_ROWS = 16_000  # tokens of a large encoder pass
FEW_ROWS = 64  # beams of a small decode step
NAMES = ("libcublasLt.so.13", "libcublasLt.so.12")
_FOLDERS = ("cu13/lib", "cublas/lib")  # of the wheels for CUDA 13 and 12, in the package `nvidia`
_BIAS_ALIGNMENT = 16
_BLOCK = 256


def find_library() -> str | None:
    """What to load cuBLASLt by: the library that torch has loaded, or one of NVIDIA's wheels, or the system's."""
    wheels = importlib.util.find_spec("nvidia")
    folders = list(wheels.submodule_search_locations or ()) if wheels else []
    shipped = [str(Path(root, folder, name)) for root in folders for folder in _FOLDERS for name in NAMES]
    for paths, mode in ((NAMES, os.RTLD_NOLOAD), (shipped, 0), (NAMES, 0)):
        for path in paths:
            with contextlib.suppress(OSError):
                ctypes.CDLL(path, mode=mode | os.RTLD_NOW)
                return path
    return None


def stream_of(device: torch.device) -> int:
    """torch's current stream."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


class PinnedProducts:
    """`linear` on one device, by the cuBLASLt in the file `library`; algorithms are those for `reference_rows` rows.

    Raises RuntimeError if the library cannot be used. Results of two instances may differ in their last bits.
    """

    def __init__(self, device: torch.device, library: str, reference_rows: int = REFERENCE_ROWS) -> None:
        assert csrc_cuda is not None
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            self._library = csrc_cuda.CublasLt(library)
        self.device, self.reference_rows = device, reference_rows
        self._products: dict[tuple[Any, ...], Any] = {}

    @property
    def version(self) -> int:
        """120805 for 12.8.5."""
        return self._library.version

    @functools.cached_property
    def relu_keeps_nan(self) -> bool:
        """Whether the ReLU of cuBLASLt gives NaN for NaN, as ours does: a failing beam is found by its NaN."""
        x = torch.full((8, 64), math.nan, dtype=torch.bfloat16, device=self.device)
        return bool(self._product(x, x, None, True, None, 1.0, x.dtype).isnan().all())

    def algorithms(self) -> dict[str, dict[str, int]]:
        """By product: what cuBLASLt says of its algorithm, in the numbers of cublasLt.h."""
        return {product.name: product.algorithm() for product in self._products.values()}

    def linear(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        activation: Activation | None = None,
        residual: Tensor | None = None,
        scale: float = 1.0,
        out_dtype: torch.dtype | None = None,
    ) -> Tensor:
        """residual + scale · activation(x · Wᵀ + bias), [rows, out]; `weight` [out, in] is contiguous, in x's dtype.

        Raises NotImplementedError for another weight, and where cuBLASLt has no algorithm; RuntimeError if it fails.
        """
        if not isinstance(weight, Tensor) or weight.dtype != x.dtype or not weight.is_contiguous():
            raise NotImplementedError(f"the weight must be contiguous, and of x's dtype, {x.dtype}")
        dtype = out_dtype or x.dtype
        if self._fuses(bias, activation, residual, scale, dtype):
            bias = bias if bias is None or scale == 1.0 else bias * scale
            return self._product(x, weight, bias, activation == "relu", residual, scale, dtype)
        sums = self._product(x, weight, None, False, None, 1.0, torch.float32)
        return _finish(sums, bias, activation, residual, scale, dtype)

    def _fuses(
        self,
        bias: Tensor | None,
        activation: Activation | None,
        residual: Tensor | None,
        scale: float,
        dtype: torch.dtype,
    ) -> bool:
        """Whether this is act(alpha · x · Wᵀ + beta · residual + bias), all in one dtype."""
        if (bias is not None and bias.dtype != dtype) or (residual is not None and residual.dtype != dtype):
            return False
        if activation is None:  # scale · bias must be exact, so that the result is rounded once
            return bias is None or scale == 1.0 or math.frexp(scale)[0] == 0.5
        return activation == "relu" and residual is None and scale == 1.0 and self.relu_keeps_nan

    def _product(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        relu: bool,
        residual: Tensor | None,
        scale: float,
        dtype: torch.dtype,
    ) -> Tensor:
        rows, (out, inner) = x.shape[0], weight.shape
        y = torch.empty(rows, out, dtype=dtype, device=x.device)
        if not rows:
            return y
        key = out, inner, x.dtype, dtype, bias is not None, relu, residual is not None
        product = self._products.get(key) or self._pin(key)
        x = _readable(x, product.alignment_x)
        residual = None if residual is None else _readable(residual, product.alignment_residual)
        if bias is not None and (bias.data_ptr() % _BIAS_ALIGNMENT or not bias.is_contiguous()):
            bias = bias.clone(memory_format=torch.contiguous_format)
        product.run(
            x.data_ptr(),
            rows,
            x.stride(0),
            weight.data_ptr(),
            0 if bias is None else bias.data_ptr(),
            0 if residual is None else residual.data_ptr(),
            0 if residual is None else residual.stride(0),
            y.data_ptr(),
            scale,
            stream_of(x.device),
        )
        return y

    def _pin(self, key: tuple[Any, ...]) -> Any:
        assert csrc_cuda is not None
        out, inner, dtype, out_dtype, bias, relu, residual = key
        formats = (str(dtype)[6:], str(out_dtype)[6:])  # without "torch."
        options = {"bias": bias, "relu": relu, "residual": residual, "reference_rows": self.reference_rows}
        self._products[key] = csrc_cuda.CublasLtProduct(self._library, out, inner, *formats, **options)
        return self._products[key]


def _readable(x: Tensor, alignment: int) -> Tensor:
    """x, or a copy of it, whose rows are contiguous, do not overlap, and begin at multiples of `alignment` bytes."""
    stride, step = x.stride()
    if step == 1 and stride >= x.shape[1] and not (x.data_ptr() | stride * x.itemsize) % alignment:
        return x
    return x.clone(memory_format=torch.contiguous_format)


def _finish(
    sums: Tensor,
    bias: Tensor | None,
    activation: Activation | None,
    residual: Tensor | None,
    scale: float,
    out_dtype: torch.dtype,
) -> Tensor:
    """The epilogue on sums [rows, out] of float32."""
    rows, columns = sums.shape
    out = columns // 2 if activation == "glu" else columns
    y = torch.empty(rows, out, dtype=out_dtype, device=sums.device)
    if not rows:
        return y
    residual = None if residual is None else unit_stride(residual)
    _sum_kernel[(rows, triton.cdiv(out, _BLOCK))](
        sums,
        None,
        None,
        bias,
        residual,
        y,
        rows,
        columns,
        0 if residual is None else residual.stride(0),
        scale,
        ACTIVATION=activation,
        CHUNKS=1,
        BLOCK=_BLOCK,
        num_warps=_BLOCK // 128,
        enable_fp_fusion=True,
    )
    return y


@functools.cache
def pinned(device: torch.device, reference_rows: int = REFERENCE_ROWS) -> PinnedProducts:
    """The products of a device. Raises RuntimeError if cuBLASLt cannot be used."""
    library = find_library()
    if library is None:
        raise RuntimeError(f"there is no {NAMES[0]}, nor an earlier one")
    return PinnedProducts(device, library, reference_rows)


def available(device: torch.device) -> str:
    if device.type != "cuda":
        return "it runs on CUDA devices"
    if not hasattr(csrc_cuda, "CublasLt"):
        return "csrc/ was not built for CUDA, or from other sources"
    try:
        pinned(device)
    except RuntimeError as error:
        return str(error)
    return ""


def run(x: Tensor, weight: Tensor, bias: Tensor | None = None, **options: Any) -> Tensor:
    """`linear` on x's device."""
    return pinned(x.device).linear(x, weight, bias, **options)


def prove(device: torch.device, quick: bool = False) -> str:
    """As `proofs.prove_linear`; also, that ReLU keeps a NaN in its row, and in no other.

    Returns also in how many products the algorithms for few rows have the same bits, and which algorithms they are.
    """
    shown = prove_linear(run, device, quick)
    few, many = pinned(device, FEW_ROWS), pinned(device)
    _prove_nan(many, DIM if quick else MODEL.decoder_ffn_dim)
    products = QUICK if quick else PRODUCTS
    same = sum(_same_bits(few, many, product) for product in products)
    words = [
        shown,
        f"ReLU by {'cuBLASLt' if many.relu_keeps_nan else 'our kernel, as cuBLASLt drops NaN'}",
        f"the same bits with algorithms for {FEW_ROWS} rows in {same} of {len(products)}",
        *(f"{name}: {algorithm}" for name, algorithm in many.algorithms().items() if "bfloat16" in name),
    ]
    return "; ".join(words)


def _prove_nan(products: PinnedProducts, out: int) -> None:
    made = {"generator": torch.Generator(products.device).manual_seed(0), "device": products.device}
    x, weight, bias = torch.randn(130, DIM, **made), torch.randn(out, DIM, **made), torch.randn(out, **made)
    x[40, 7] = math.nan
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        nan = products.linear(x.to(dtype), weight.to(dtype), bias.to(dtype), activation="relu").isnan()
        assert nan[40].all() and nan.sum() == out, f"ReLU in {dtype} does not keep NaN where it is"


def _same_bits(few: PinnedProducts, many: PinnedProducts, product: Product) -> bool:
    """Whether the algorithms for few and for many rows give the same product in bfloat16, without an epilogue."""
    made = {"generator": torch.Generator(many.device).manual_seed(0), "device": many.device}
    x = torch.randn(FEW_ROWS, product.inner, **made).bfloat16()
    weight = torch.randn(product.outer, product.inner, **made).bfloat16()
    out_dtype = torch.float32 if product.logits else None
    return torch.equal(few.linear(x, weight, out_dtype=out_dtype), many.linear(x, weight, out_dtype=out_dtype))


CANDIDATE = Candidate("cuBLASLt, pinned", "linear", available, run, prove)
