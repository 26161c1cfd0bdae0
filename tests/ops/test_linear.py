"""linear: right in every dtype and epilogue, and a row's bits do not depend on how many rows there are."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from seamless_kernels import jit
from seamless_kernels import linear as module
from seamless_kernels.config import config_for, table
from seamless_kernels.linear import IMPLS, linear, pack_weight
from support.epilogue import finished
from support.packed import BACKENDS, DEVICE, DTYPES, normal
from tolerance import assert_close_to_fp64

SHAPES = [
    (1, 7, 13),
    (2, 16, 3),
    (5, 16, 32),
    (17, 160, 64),
    (33, 64, 1),
    (70, 200, 48),
    (63, 512, 96),
    (130, 1100, 80),
    (16, 1000, 3),
]
EPILOGUES: list[dict[str, Any]] = [
    {},
    {"activation": "relu"},
    {"activation": "silu"},
    {"activation": "glu"},
    {"scale": 0.5},
]
# "packed" is what the engine runs.
IMPLEMENTATIONS = ("packed", *BACKENDS)
ROWS = (1, 5, 33, 64, 65, 200)
GPU_ROWS = (1, 5, 40, 64, 65, 128, 320, 1280, 2000, 16_000)


def implementation(name: str) -> Callable[..., torch.Tensor]:
    """`linear` on plain weights, by one implementation."""
    if name != "packed":
        return IMPLS[name]
    return lambda x, weight, bias=None, **options: linear(x, pack_weight(weight), bias, **options)


def onednn(*operands: torch.Tensor) -> torch.Tensor:
    """Less exact sums than those of torch's other product on a CPU."""
    return F.linear(*(tensor.to_mkldnn() for tensor in operands)).to_dense()


def exact(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    residual: torch.Tensor | None,
    epilogue: dict[str, Any],
    dtype: torch.dtype,
    product: Callable[..., torch.Tensor] = F.linear,
) -> torch.Tensor:
    """The formula in `dtype`, by one of the products that torch has."""
    y = product(*(tensor.to(dtype) for tensor in (x, weight, bias)))
    return finished(y, epilogue.get("activation"), epilogue.get("scale", 1.0), residual)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("epilogue", EPILOGUES, ids=str)
@pytest.mark.parametrize("rows,inner,outer", SHAPES)
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_error_is_at_most_twice_torch(
    rows: int, inner: int, outer: int, epilogue: dict[str, Any], dtype: torch.dtype, name: str
) -> None:
    glu = epilogue.get("activation") == "glu"
    x = normal(rows, inner, dtype=dtype)
    weight = normal(outer * (1 + glu), inner, dtype=dtype, seed=1) / inner**0.5
    bias = normal(outer * (1 + glu), dtype=dtype, seed=2)
    product = onednn if name == "packed" and pack_weight(weight).is_mkldnn else F.linear
    for residual in (None, normal(rows, outer, dtype=dtype, seed=3)):
        out = implementation(name)(x, weight, bias, residual=residual, **epilogue)
        own = exact(x, weight, bias, residual, epilogue, dtype, product)
        assert_close_to_fp64(out, own, exact(x, weight, bias, residual, epilogue, torch.float64))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("epilogue", EPILOGUES[:4], ids=str)
@pytest.mark.parametrize("rows,inner,outer", [(5, 160, 70), (70, 600, 48)])
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_a_wider_result_is_not_rounded_on_the_way(
    rows: int, inner: int, outer: int, epilogue: dict[str, Any], dtype: torch.dtype, name: str
) -> None:
    x, bias = normal(rows, inner, dtype=dtype), normal(outer, dtype=dtype, seed=2)
    weight = normal(outer, inner, dtype=dtype, seed=1) / inner**0.5
    out = implementation(name)(x, weight, bias, out_dtype=torch.float32, **epilogue)
    assert out.dtype == torch.float32

    def matrix_units(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.mm(x.to(dtype), weight.to(dtype).T, out_dtype=torch.float32) + bias

    product = matrix_units if DEVICE.type == "cuda" else F.linear
    own = exact(x, weight, bias, None, epilogue, torch.float32, product)
    assert_close_to_fp64(out, own, exact(x, weight, bias, None, epilogue, torch.float64))


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # by NumPy, of the interpreter
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", [None, "relu", "silu", "glu"])
@pytest.mark.parametrize("inner", [40, 300])
@pytest.mark.parametrize("name", BACKENDS)
def test_nan_and_infinity_go_where_the_formula_has_them(
    inner: int, activation: Any, dtype: torch.dtype, name: str
) -> None:
    x, weight, bias = normal(21, inner, dtype=dtype), normal(38, inner, dtype=dtype, seed=1), normal(38, dtype=dtype)
    x[2, 3], x[7, inner - 1], x[20, 0] = float("nan"), float("inf"), -float("inf")
    weight[4, 5], weight[30, 1], bias[9] = float("nan"), float("inf"), -float("inf")
    residual = normal(21, 19 if activation == "glu" else 38, dtype=dtype, seed=3)
    residual[0, 0], residual[7, 1] = float("nan"), float("inf")
    out = implementation(name)(x, weight, bias, activation=activation, residual=residual, scale=0.5)
    epilogue = {"activation": activation, "scale": 0.5}
    own, truth = (exact(x, weight, bias, residual, epilogue, precision) for precision in (dtype, torch.float64))
    assert_close_to_fp64(out, own, truth)
    assert truth[1].isfinite().any() and truth[2].isnan().all()


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_rows_may_be_any_distance_apart_and_none_at_all(name: str) -> None:
    call = implementation(name)
    wide, residuals, weight = normal(9, 100), normal(18, 24, seed=1), normal(24, 48, seed=2)
    x, residual = wide[:, 20:68], residuals[::2]
    plain = call(x.contiguous(), weight, residual=residual.contiguous())
    assert torch.equal(call(x, weight, residual=residual), plain)
    assert torch.equal(call(x.T.contiguous().T, weight, residual=residual), plain)
    assert call(x[:0], weight, residual=residual[:0]).shape == (0, 24)
    assert call(x[:0], weight, activation="glu").shape == (0, 12)


@pytest.mark.parametrize("name", ["packed", "torch"] if DEVICE.type == "cpu" else ["packed"])
@pytest.mark.parametrize("activation", [None, "silu", "glu"])
@pytest.mark.parametrize("inner,outer", [(512, 1024), (2048, 512), (8192, 256), (7, 13), (64, 6), (352, 32), (1280, 2)])
def test_a_row_does_not_feel_the_others(inner: int, outer: int, activation: Any, name: str) -> None:
    if activation == "glu" and outer % 2:
        outer += 1
    rng = random.Random(inner)
    x, weight, bias = normal(300, inner), normal(outer, inner, seed=1) / inner**0.5, normal(outer, seed=2)
    if name == "packed":
        weight = pack_weight(weight)

    def run(rows: torch.Tensor) -> torch.Tensor:
        call = linear if name == "packed" else IMPLS["torch"]
        return call(rows, weight, bias, activation=activation)

    alone = torch.cat([run(x[i : i + 1]) for i in range(40)])
    for trial in range(24):
        count = trial + 1 if trial < 18 else rng.randint(20, 300)
        chosen = torch.randperm(300, generator=torch.Generator().manual_seed(trial))[:count]
        known = chosen < 40
        assert torch.equal(run(x[chosen])[known], alone[chosen[known]]), count


if jit.available():
    DIMS = [(1024, 1024), (8192, 1024), (1024, 8192)] if DEVICE.type == "cuda" else [(48, 72), (30, 160), (64, 300)]

    @pytest.fixture
    def products_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
        """Makes the interpreter's products those of a GPU."""
        if jit.interpreted():
            from support.interpreter import interpreter
            from support.ordered import ordered

            builder = interpreter.InterpreterBuilder
            monkeypatch.setattr(builder, "create_dot", ordered(builder.create_dot))

    @pytest.mark.usefixtures("products_in_order")
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("activation", ["silu", "glu"])
    @pytest.mark.parametrize("outer,inner", DIMS)
    def test_a_row_of_the_kernel_does_not_feel_the_others(
        outer: int, inner: int, activation: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Alone, in any number of rows and at any place among them, whichever tile and split their number chooses."""
        chosen = set()

        def schedule(*args: Any, choose: Any = module._schedule) -> Any:
            tile, split = choose(*args)
            chosen.add((*tile.values(), split))
            return tile, split

        monkeypatch.setattr(module, "_schedule", schedule)
        counts = GPU_ROWS if DEVICE.type == "cuda" else ROWS
        weight, bias = normal(outer, inner, dtype=dtype, seed=1) / inner**0.5, normal(outer, dtype=dtype, seed=2)
        x = normal(max(counts), inner, dtype=dtype)
        residual = normal(max(counts), outer // 2 if activation == "glu" else outer, dtype=dtype, seed=3)

        def run(rows: slice | torch.Tensor) -> torch.Tensor:
            call = IMPLS["triton"]
            return call(x[rows], weight, bias, activation=activation, residual=residual[rows], scale=0.5)

        whole = run(slice(None))
        for count in counts:
            assert torch.equal(run(slice(0, count)), whole[:count]), count
            rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(count))[:count].to(DEVICE)
            assert torch.equal(run(rows), whole[rows]), count
        assert len(chosen) > 1, f"only {chosen}: choose rows that other tiles take"
        assert inner < 300 or {False, True} == {split for *_, split in chosen}

    @pytest.mark.usefixtures("products_in_order")
    def test_chunks_are_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
        """Were they chosen by the number of rows, the test above would fail."""
        x, weight = normal(5, 300), normal(64, 300, seed=1)
        config = config_for("linear", (64, 300), x.dtype, DEVICE)
        results = []
        for chunk in (0, 128):
            monkeypatch.setattr(module, "config_for", lambda *_, chunk=chunk: {**config, "CHUNK": chunk})
            results.append(IMPLS["triton"](x, weight))
        assert not torch.equal(*results)


def test_every_tile_of_an_architecture_uses_the_same_instruction_and_cuts_no_chunk() -> None:
    resources = json.loads((Path(__file__).parents[1] / "aot" / "resources.json").read_text(encoding="utf-8"))
    for arch, by_dims in table()["linear"].items():
        kinds = {row["mma"] for key, row in resources.items() if key.startswith(f"linear/{arch}/") and "product" in key}
        assert kinds - {None} == ({"sm_80": {"mma"}, "sm_90": {"wgmma"}, "sm_100": {"tcgen05"}}.get(arch, set()))
        for config in (config for entries in by_dims.values() for config in entries.values()):
            for tile in (dict(zip(module._TILE, sizes, strict=True)) for sizes in config["TILES"]):
                assert config["CHUNK"] % tile["BLOCK_K"] == 0
                assert tile["BLOCK_K"] % 16 == 0
