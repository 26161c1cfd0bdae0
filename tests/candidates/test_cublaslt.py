"""Products by cuBLASLt, against a library that computes on the CPU: what it is asked for, and what its answers do."""

from __future__ import annotations

import ctypes
import functools
import gc
import json
import math
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import support.repository  # noqa: F401  `benchmarks` is a package
from benchmarks.device.candidates import candidates, cublaslt, proofs
from benchmarks.device.candidates.cublaslt import REFERENCE_ROWS, PinnedProducts
from benchmarks.kernels.products import Product
from seamless_kernels import jit, native
from seamless_kernels.linear import pack_weight
from support.epilogue import finished
from support.packed import DTYPES, normal
from support.snippets import ROOT
from tolerance import assert_close_to_fp64

SOURCE = ROOT / "tests" / "support" / "cublaslt_stub.cpp"
CPU = torch.device("cpu")
PINNED = 6  # of the algorithms that the stub offers, the first that may be taken
TYPES = {torch.float32: 0, torch.float16: 2, torch.bfloat16: 14}
EPILOGUES: list[dict[str, Any]] = [
    {},
    {"activation": "relu"},
    {"activation": "silu"},
    {"activation": "glu"},
    {"scale": 0.5},
    {"scale": 0.3},
]
EPILOGUE_ROUNDINGS = 8  # after the sum
# cublasLt.h: sums in float32, scaled in float32; the weight transposed
ALWAYS = {"compute_type": 68, "scale_type": 0, "transa": 1, "transb": 0}


class Stub:
    """The library of support/cublaslt_stub.cpp."""

    def __init__(self, path: Path) -> None:
        self.path, self.functions = str(path), ctypes.CDLL(str(path))
        self.functions.stub_record.restype = ctypes.c_char_p

    def reset(self) -> None:
        self.functions.stub_reset()
        self.offer(1, split_k=4)
        self.offer(2, reduction=2)
        self.offer(3, workspace=1024)
        self.offer(4, most_rows=100)
        self.offer(5, state=15)
        self.offer(PINNED)
        self.offer(7)

    def offer(
        self,
        number: int,
        *,
        split_k: int = 1,
        reduction: int = 0,
        workspace: int = 0,
        most_rows: int = 10**6,
        state: int = 0,
    ) -> None:
        self.functions.stub_offer(number, split_k, reduction, workspace, most_rows, state)

    def fail(self, function: str, status: int = 13) -> None:
        self.functions.stub_fail(function.encode(), status)

    def calls(self, name: str) -> list[dict[str, Any]]:
        recorded = json.loads(f"[{self.functions.stub_record().decode()}]")
        return [call for call in recorded if call["call"] == name]

    @property
    def objects(self) -> int:
        """Handles, descriptors and layouts that were made and not destroyed."""
        gc.collect()
        return self.functions.stub_objects()


# The stub computes on the CPU, and there the rest of an epilogue needs Triton's interpreter.
@pytest.fixture(scope="module", params=["csrc_cuda"] if native.csrc_cuda and jit.interpreted() else [])
def library(tmp_path_factory: pytest.TempPathFactory) -> Stub:
    path = tmp_path_factory.mktemp("cublaslt") / "stub.so"
    command = ["g++", "-std=c++17", "-O3", "-mavx2", "-shared", "-fPIC", str(SOURCE), "-o", str(path)]
    subprocess.run(command, check=True)
    return Stub(path)


@pytest.fixture
def stub(library: Stub) -> Iterator[Stub]:
    library.reset()
    yield library
    assert library.objects == 0


@pytest.mark.parametrize("out_dtype", [None, torch.float32], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("epilogue", EPILOGUES, ids=str)
@pytest.mark.parametrize("rows,inner,outer", [(1, 7, 13), (5, 16, 32), (18, 200, 48), (11, 64, 1)])
def test_linear_is_close_to_float64(
    rows: int,
    inner: int,
    outer: int,
    epilogue: dict[str, Any],
    dtype: torch.dtype,
    out_dtype: torch.dtype | None,
    stub: Stub,
) -> None:
    products = PinnedProducts(CPU, stub.path)
    columns = outer * 2 if epilogue.get("activation") == "glu" else outer
    x, weight = normal(rows, inner, dtype=dtype), normal(columns, inner, dtype=dtype, seed=1) / inner**0.5
    for bias in (None, normal(columns, dtype=dtype, seed=2)):
        for residual in (None, normal(rows, outer, dtype=dtype, seed=3)):
            out = products.linear(x, weight, bias, residual=residual, out_dtype=out_dtype, **epilogue)
            y = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
            exact = finished(y, epilogue.get("activation"), epilogue.get("scale", 1.0), residual)
            assert_close_to_fp64(out, exact, inner + EPILOGUE_ROUNDINGS, dtype=out_dtype or dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "options,epilogue,alpha_of_bias",
    [({}, 4, 1.0), ({"activation": "relu"}, 6, 1.0), ({"residual": True}, 4, 1.0), ({"scale": 0.5}, 4, 0.5)],
    ids=str,
)
def test_linear_fuses_bias_relu_and_residual(
    options: dict[str, Any], epilogue: int, alpha_of_bias: float, dtype: torch.dtype, stub: Stub
) -> None:
    """One call, with the matrices as they lie in memory: their rows are cuBLASLt's columns."""
    products, options = PinnedProducts(CPU, stub.path), dict(options)
    rows, inner, outer = 9, 32, 16
    x, weight = normal(rows, 3 * inner, dtype=dtype)[:, :inner], normal(outer, inner, dtype=dtype, seed=1)
    bias, residuals = normal(outer, dtype=dtype, seed=2), normal(rows, 2 * outer, dtype=dtype, seed=3)
    residual = residuals[:, :outer] if options.pop("residual", False) else None
    before = len(stub.calls("matmul"))
    y = products.linear(x, weight, bias, residual=residual, **options)
    call = stub.calls("matmul")[-1]
    assert len(stub.calls("matmul")) == before + 1 + ("activation" in options)  # before ReLU is used, its NaN is tried
    assert call.items() >= {**ALWAYS, "epilogue": epilogue, "algo": PINNED}.items()
    assert (call["a"], call["b"], call["d"]) == (weight.data_ptr(), x.data_ptr(), y.data_ptr())
    assert call["c"] == (y if residual is None else residual).data_ptr()
    assert alpha_of_bias != 1.0 or call["bias"] == bias.data_ptr()
    kind, stride = TYPES[dtype], outer if residual is None else 2 * outer
    assert call["layouts"] == [
        [kind, inner, outer, inner],
        [kind, inner, rows, 3 * inner],
        [kind, outer, rows, stride],
        [kind, outer, rows, outer],
    ]


@pytest.mark.parametrize("activation", ["silu", "glu"])
def test_linear_stores_sums_in_float32_where_the_epilogue_is_ours(activation: Any, stub: Stub) -> None:
    products = PinnedProducts(CPU, stub.path)
    x, weight = normal(9, 32, dtype=torch.bfloat16), normal(16, 32, dtype=torch.bfloat16, seed=1)
    products.linear(x, weight, weight[:, 0].contiguous(), activation=activation)
    (call,) = stub.calls("matmul")
    assert call["epilogue"] == 1 and [layout[0] for layout in call["layouts"]] == [14, 14, 0, 0]


@pytest.mark.parametrize("keeps_nan", [True, False])
def test_linear_keeps_nan_whether_or_not_the_library_does(keeps_nan: bool, stub: Stub) -> None:
    if not keeps_nan:
        stub.functions.stub_relu_drops_nan()
    products = PinnedProducts(CPU, stub.path)
    assert products.relu_keeps_nan == keeps_nan
    x, weight = normal(9, 32), normal(16, 32, seed=1)
    x[4, 3] = math.nan
    out = products.linear(x, weight, activation="relu")
    assert out[4].isnan().all() and out.isnan().sum() == 16
    assert stub.calls("matmul")[-1]["epilogue"] == (2 if keeps_nan else 1)


def test_linear_asks_for_an_algorithm_once_and_uses_it_for_any_number_of_rows(stub: Stub) -> None:
    products = PinnedProducts(CPU, stub.path)
    weight = normal(16, 32, seed=1)
    for rows in (5, 1, 200, 5, 33):
        products.linear(normal(rows, 32), weight)
    (asked,) = stub.calls("heuristic")
    assert [layout[2] for layout in asked["layouts"]] == [16, *[REFERENCE_ROWS] * 3]
    assert asked["workspace"] == 0 and asked["reduction_mask"] == 0
    assert [call["algo"] for call in stub.calls("matmul")] == [PINNED] * 5
    assert [call["layouts"][3][2] for call in stub.calls("matmul")] == [5, 1, 200, 5, 33]
    assert all((call["workspace"], call["workspace_bytes"]) == (0, 0) for call in stub.calls("matmul"))
    assert products.algorithms() == {
        "16×32 float32 to float32": {
            **dict.fromkeys(("tile", "stages", "swizzling", "custom", "inner_shape", "cluster"), 0),
            "id": PINNED,
            "split_k": 1,
        }
    }


@pytest.mark.parametrize(
    "inner,outer,dtype,out_dtype,operands,results",
    [
        (1024, 1024, torch.bfloat16, torch.bfloat16, 16, 16),
        (64, 6, torch.bfloat16, torch.float32, 16, 8),  # as the head: 256,102 is 6 modulo 16
        (12, 7, torch.float16, torch.float16, 8, 2),
        (7, 3, torch.float32, torch.float32, 4, 4),
    ],
)
def test_linear_asks_for_no_more_alignment_than_all_rows_have(
    inner: int, outer: int, dtype: torch.dtype, out_dtype: torch.dtype, operands: int, results: int, stub: Stub
) -> None:
    products = PinnedProducts(CPU, stub.path)
    products.linear(normal(3, inner, dtype=dtype), normal(outer, inner, dtype=dtype), out_dtype=out_dtype)
    (asked,) = stub.calls("heuristic")
    assert asked["alignments"] == [operands, operands, results, results]


@pytest.mark.parametrize("epilogue", [{}, {"activation": "silu"}], ids=str)
def test_linear_takes_any_strides_and_no_rows(epilogue: dict[str, Any], stub: Stub) -> None:
    """The stub refuses a pointer that is less aligned than it was told, so a copy was made where one is needed."""
    call = functools.partial(PinnedProducts(CPU, stub.path).linear, **epilogue)
    wide, residuals, weight = normal(9, 100), normal(18, 25, seed=1), normal(24, 48, seed=2)
    bias = normal(25, seed=3)[1:]
    for start in (20, 21):  # aligned to 16 bytes, and not
        x, residual = wide[:, start : start + 48], residuals[::2, start - 20 : start + 4]
        plain = call(x.contiguous(), weight, bias, residual=residual.contiguous())
        assert torch.equal(call(x, weight, bias, residual=residual), plain)
        assert torch.equal(call(x.T.contiguous().T, weight, bias, residual=residual.T.contiguous().T), plain)
        assert torch.equal(call(x[3:4], weight, bias, residual=residual[3:4]), plain[3:4])
    same = call(x[:1].expand(9, 48), weight, bias, residual=residual[:1].expand(9, 24))
    assert torch.equal(same, plain[:1].expand(9, 24))
    assert call(x[:0], weight, bias, residual=residual[:0]).shape == (0, 24)
    assert PinnedProducts(CPU, stub.path).linear(x[:0], weight, activation="glu").shape == (0, 12)


@pytest.mark.parametrize("epilogue", EPILOGUES, ids=str)
def test_linear_is_batch_invariant(epilogue: dict[str, Any], stub: Stub) -> None:
    products = PinnedProducts(CPU, stub.path)
    x, weight, bias = normal(40, 48), normal(24, 48, seed=1), normal(24, seed=2)
    whole = products.linear(x, weight, bias, **epilogue)
    for first, count in ((0, 1), (39, 1), (3, 5), (20, 20)):
        own = slice(first, first + count)
        assert torch.equal(products.linear(x[own], weight, bias, **epilogue), whole[own])


def test_linear_runs_on_the_current_stream(monkeypatch: pytest.MonkeyPatch, stub: Stub) -> None:
    products = PinnedProducts(CPU, stub.path)
    for stream in (0x1230, 0x4560):
        monkeypatch.setattr(cublaslt, "stream_of", lambda device, stream=stream: stream)
        products.linear(normal(3, 16), normal(8, 16))
        assert stub.calls("matmul")[-1]["stream"] == stream


def test_linear_refuses_a_weight_that_it_would_misread(stub: Stub) -> None:
    products, x, weight = PinnedProducts(CPU, stub.path), normal(3, 16), normal(8, 16)
    for wrong in (pack_weight(weight), weight.bfloat16(), normal(16, 8).T):
        with pytest.raises(NotImplementedError, match="contiguous, and of x's dtype, torch.float32"):
            products.linear(x, wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="no product of float64"):
        products.linear(x.double(), weight.double())
    with pytest.raises(ValueError, match="not aligned"):
        products.linear(x, normal(129)[1:].view(8, 16))


@pytest.mark.parametrize("refusal", ["no offers", "not supported"])
def test_linear_takes_no_product_without_an_algorithm(refusal: str, stub: Stub) -> None:
    if refusal == "no offers":
        stub.functions.stub_reset()
        stub.offer(1, split_k=2)
    else:
        stub.fail("cublasLtMatmulAlgoGetHeuristic", 15)
    products = PinnedProducts(CPU, stub.path)
    with pytest.raises(NotImplementedError, match="of [01] algorithms of cuBLASLt for 8×16 float32 to float32 none"):
        products.linear(normal(3, 16), normal(8, 16))
    assert not stub.calls("matmul")


@pytest.mark.parametrize(
    "function",
    [
        "cublasLtMatmulDescCreate",
        "cublasLtMatmulDescSetAttribute",
        "cublasLtMatrixLayoutCreate",
        "cublasLtMatrixLayoutSetAttribute",
        "cublasLtMatmulPreferenceCreate",
        "cublasLtMatmulAlgoGetHeuristic",
        "cublasLtMatmul",
    ],
)
def test_linear_says_which_call_failed_and_works_after_it(function: str, stub: Stub) -> None:
    products, x, weight, bias = PinnedProducts(CPU, stub.path), normal(3, 16), normal(8, 16), normal(8)
    stub.fail(function)
    with pytest.raises(RuntimeError, match=rf"{function}: execution failed \(EXECUTION_FAILED\)"):
        products.linear(x, weight, bias)
    stub.fail("")
    assert_close_to_fp64(products.linear(x, weight, bias), F.linear(*(t.double() for t in (x, weight, bias))), terms=16)


def test_linear_sets_all_layouts_again_after_one_of_them_failed(stub: Stub) -> None:
    products, x, weight = PinnedProducts(CPU, stub.path), normal(3, 16), normal(8, 16)
    expected = products.linear(x, weight)
    stub.fail("cublasLtMatrixLayoutSetAttribute")
    with pytest.raises(RuntimeError, match="cublasLtMatrixLayoutSetAttribute"):
        products.linear(normal(5, 16), weight)
    stub.fail("")
    assert torch.equal(products.linear(x, weight), expected)


def test_pinned_products_say_why_a_library_cannot_be_used(stub: Stub, tmp_path: Path) -> None:
    stub.fail("cublasLtCreate")
    with pytest.raises(RuntimeError, match=r"cublasLtCreate: execution failed \(EXECUTION_FAILED\)"):
        PinnedProducts(CPU, stub.path)
    with pytest.raises(RuntimeError, match="cuBLASLt cannot be loaded: .*gone.so"):
        PinnedProducts(CPU, str(tmp_path / "gone.so"))
    (tmp_path / "empty.cpp").touch()
    other = str(tmp_path / "other.so")
    subprocess.run(["g++", "-shared", str(tmp_path / "empty.cpp"), "-o", other], check=True)
    with pytest.raises(RuntimeError, match="cuBLASLt has no function cublasLtGetVersion"):
        PinnedProducts(CPU, other)


def test_pinned_products_keep_what_they_made_for_a_product_and_nothing_for_a_call(stub: Stub) -> None:
    products, weight = PinnedProducts(CPU, stub.path), normal(8, 16)
    assert products.version == 130101
    products.linear(normal(1, 16), weight)
    made = stub.objects
    for rows in range(1, 40):
        products.linear(normal(rows, 16), weight)
    assert stub.objects == made
    del products
    assert stub.objects == 0


@pytest.mark.parametrize("batch_invariant", [True, False])
def test_prove_finds_a_library_whose_bits_depend_on_the_rows(
    batch_invariant: bool, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not batch_invariant:
        stub.functions.stub_depend_on_rows()
    small = (Product("out", 64, 96, (5,), residual=True), Product("fc1", 96, 64, (5,), activation="relu"))
    with monkeypatch.context() as patch:
        patch.setattr(cublaslt, "find_library", lambda: stub.path)
        patch.setattr(cublaslt, "QUICK", small)
        patch.setattr(proofs, "QUICK", small)
        if batch_invariant:
            words = cublaslt.prove(CPU, quick=True)
            assert words.startswith(
                "6 products, 0 refused; ReLU by cuBLASLt; the same bits with algorithms for 64 rows"
            )
            assert f"'id': {PINNED}" in words
        else:
            with pytest.raises(AssertionError, match="rows .* of 80"):
                cublaslt.prove(CPU, quick=True)
    cublaslt.pinned.cache_clear()


def test_available_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cublaslt.CANDIDATE in candidates()
    assert cublaslt.available(CPU) == cublaslt.available(torch.device("meta")) == "it runs on CUDA devices"
    cuda = torch.device("cuda")
    monkeypatch.setattr(cublaslt, "csrc_cuda", types.SimpleNamespace(CublasLt=None))
    monkeypatch.setattr(cublaslt, "find_library", lambda: None)
    assert cublaslt.available(cuda) == "there is no libcublasLt.so.13, nor an earlier one"
    monkeypatch.setattr(cublaslt, "csrc_cuda", None)
    assert cublaslt.available(cuda) == "csrc/ was not built for CUDA, or from other sources"


def test_find_library_prefers_the_loaded_library_to_that_of_a_wheel(tmp_path: Path) -> None:
    """The first call loads the wheel's, so that the second finds it loaded."""
    folder, name = tmp_path / "nvidia" / "cu13" / "lib", "libcublasLt.so.test"
    folder.mkdir(parents=True)
    command = ["g++", "-shared", "-x", "c++", "/dev/null", f"-Wl,-soname,{name}", "-o", str(folder / name)]
    subprocess.run(command, check=True)
    code = """
import sys
sys.path[:0] = sys.argv[1:3]
from benchmarks.device.candidates import cublaslt
cublaslt.NAMES = (sys.argv[3],)
print(cublaslt.find_library(), cublaslt.find_library())
"""
    command = [sys.executable, "-c", code, str(ROOT), str(tmp_path), name]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout.split(), done.returncode) == ([str(folder / name), name], 0), done.stderr
