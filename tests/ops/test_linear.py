"""linear: accurate in every dtype and with every epilogue, and batch-invariant."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from seamless_kernels import jit, linear_cpu
from seamless_kernels import linear as module
from seamless_kernels.config import config_for, table
from seamless_kernels.linear import IMPLS, linear, pack_weight, pack_weight_int8
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
EPILOGUE = 8  # roundings after the sum
# "packed" is what the engine runs.
IMPLEMENTATIONS = ("packed", *BACKENDS)
ROWS = (1, 5, 33, 64, 65, 200)
GPU_ROWS = (1, 5, 40, 64, 65, 128, 320, 1280, 2000, 16_000)


def implementation(name: str) -> Callable[..., torch.Tensor]:
    """`linear` on plain weights, by one implementation."""
    if name != "packed":
        return IMPLS[name]
    return lambda x, weight, bias=None, **options: linear(x, pack_weight(weight), bias, **options)


def exact(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    residual: torch.Tensor | None,
    epilogue: dict[str, Any],
) -> torch.Tensor:
    """The formula in float64."""
    y = F.linear(x.double(), weight.double(), bias.double())
    return finished(y, epilogue.get("activation"), epilogue.get("scale", 1.0), residual)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("epilogue", EPILOGUES, ids=str)
@pytest.mark.parametrize("rows,inner,outer", SHAPES)
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_linear_is_close_to_float64(
    rows: int, inner: int, outer: int, epilogue: dict[str, Any], dtype: torch.dtype, name: str
) -> None:
    glu = epilogue.get("activation") == "glu"
    x = normal(rows, inner, dtype=dtype)
    weight = normal(outer * (1 + glu), inner, dtype=dtype, seed=1) / inner**0.5
    bias = normal(outer * (1 + glu), dtype=dtype, seed=2)
    for residual in (None, normal(rows, outer, dtype=dtype, seed=3)):
        out = implementation(name)(x, weight, bias, residual=residual, **epilogue)
        assert_close_to_fp64(out, exact(x, weight, bias, residual, epilogue), inner + EPILOGUE, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("epilogue", EPILOGUES[:4], ids=str)
@pytest.mark.parametrize("rows,inner,outer", [(5, 160, 70), (70, 600, 48)])
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_linear_to_float32_is_not_rounded_to_the_dtype_of_x(
    rows: int, inner: int, outer: int, epilogue: dict[str, Any], dtype: torch.dtype, name: str
) -> None:
    x, bias = normal(rows, inner, dtype=dtype), normal(outer, dtype=dtype, seed=2)
    weight = normal(outer, inner, dtype=dtype, seed=1) / inner**0.5
    out = implementation(name)(x, weight, bias, out_dtype=torch.float32, **epilogue)
    assert out.dtype == torch.float32
    assert_close_to_fp64(out, exact(x, weight, bias, None, epilogue), terms=inner + EPILOGUE)


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # by NumPy, of the interpreter
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", [None, "relu", "silu", "glu"])
@pytest.mark.parametrize("inner", [40, 300])
@pytest.mark.parametrize("name", BACKENDS)
def test_linear_has_nan_and_infinity_where_the_formula_has_them(
    inner: int, activation: Any, dtype: torch.dtype, name: str
) -> None:
    x, weight, bias = normal(21, inner, dtype=dtype), normal(38, inner, dtype=dtype, seed=1), normal(38, dtype=dtype)
    x[2, 3], x[7, inner - 1], x[20, 0] = float("nan"), float("inf"), -float("inf")
    weight[4, 5], weight[30, 1], bias[9] = float("nan"), float("inf"), -float("inf")
    residual = normal(21, 19 if activation == "glu" else 38, dtype=dtype, seed=3)
    residual[0, 0], residual[7, 1] = float("nan"), float("inf")
    out = implementation(name)(x, weight, bias, activation=activation, residual=residual, scale=0.5)
    truth = exact(x, weight, bias, residual, {"activation": activation, "scale": 0.5})
    assert_close_to_fp64(out, truth, terms=inner + EPILOGUE, dtype=dtype)
    assert truth[1].isfinite().any() and truth[2].isnan().all()


def test_linear_takes_rows_one_by_one_where_a_library_treats_places_differently(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The product below has other bits for the rows after the first seven, and `linear` finds that out."""

    def of_two_kinds(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        y = x[:7] @ weight.T, (x[7:].double() @ weight.T.double()).float()
        return torch.cat(y) if bias is None else torch.cat(y) + bias

    monkeypatch.setattr(linear_cpu.F, "linear", of_two_kinds)
    monkeypatch.setattr(linear_cpu, "chunk_rows", {})
    x, weight = (normal(rows, 300, seed=rows, device=torch.device("cpu")) for rows in (40, 30))
    together = linear_cpu.product_by_chunks(x, weight, None)[:40]
    assert torch.equal(together, torch.cat([row[None] @ weight.T for row in x]))
    assert "rows go one by one" in caplog.text
    assert len(linear_cpu.chunk_rows) == 1


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_linear_takes_any_strides_and_no_rows(name: str) -> None:
    call = implementation(name)
    wide, residuals, weight = normal(9, 100), normal(18, 24, seed=1), normal(24, 48, seed=2)
    x, residual = wide[:, 20:68], residuals[::2]
    plain = call(x.contiguous(), weight, residual=residual.contiguous())
    assert torch.equal(call(x, weight, residual=residual), plain)
    assert torch.equal(call(x.T.contiguous().T, weight, residual=residual), plain)
    assert call(x[:0], weight, residual=residual[:0]).shape == (0, 24)
    assert call(x[:0], weight, activation="glu").shape == (0, 12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["packed", "torch"] if DEVICE.type == "cpu" else ["packed"])
@pytest.mark.parametrize("activation", [None, "silu", "glu"])
@pytest.mark.parametrize("inner,outer", [(512, 1024), (2048, 512), (8192, 256), (7, 13), (64, 6), (352, 32), (1280, 2)])
def test_linear_is_batch_invariant(inner: int, outer: int, activation: Any, name: str, dtype: torch.dtype) -> None:
    if activation == "glu" and outer % 2:
        outer += 1
    rng = random.Random(inner)
    x, weight = normal(300, inner, dtype=dtype), normal(outer, inner, dtype=dtype, seed=1) / inner**0.5
    bias = normal(outer, dtype=dtype, seed=2)
    if name == "packed":
        weight = pack_weight(weight)

    def run(rows: torch.Tensor) -> torch.Tensor:
        call = linear if name == "packed" else IMPLS["torch"]
        return call(rows, weight, bias, activation=activation)

    alone = torch.cat([run(x[i : i + 1]) for i in range(40)])
    for trial, count in enumerate([1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 167, 204, rng.randint(34, 300)]):
        chosen = torch.randperm(300, generator=torch.Generator().manual_seed(trial))[:count]
        known = chosen < 40
        assert torch.equal(run(x[chosen])[known], alone[chosen[known]]), count


@pytest.mark.parametrize("name", ["packed", "torch", "int8"])
@pytest.mark.parametrize("activation,outer", [("silu", 4096), ("glu", 2048), ("silu", 4100), ("silu", 33_000)])
@pytest.mark.parametrize("threads", [2, 3, 7])
def test_linear_is_batch_invariant_however_threads_share_its_activations(
    threads: int, activation: Any, outer: int, name: str
) -> None:
    """torch splits elements over threads in a way that depends on their number."""
    cpu = torch.device("cpu")
    x, weight = normal(70, 16, device=cpu), normal(outer, 16, seed=1, device=cpu) / 4

    def run(rows: torch.Tensor) -> torch.Tensor:
        if name == "torch":
            return IMPLS["torch"](rows, weight, activation=activation)
        return linear(rows, packed, activation=activation)

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        packed = pack_weight_int8(weight) if name == "int8" else pack_weight(weight)
        together = run(x)
        for rows in (slice(0, 1), slice(3, 8), slice(37, 70)):
            assert torch.equal(run(x[rows].clone()), together[rows])
    finally:
        torch.set_num_threads(before)


if jit.available():
    DIMS = [(1024, 1024), (8192, 1024), (1024, 8192)] if DEVICE.type == "cuda" else [(48, 72), (30, 160), (64, 300)]

    @pytest.mark.usefixtures("products_in_order")
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("activation", ["silu", "glu"])
    @pytest.mark.parametrize("outer,inner", DIMS)
    def test_the_triton_kernel_of_linear_is_batch_invariant(
        outer: int, inner: int, activation: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """For any number of rows and any place of a row, whichever tile and split the number of rows selects."""
        chosen = set()

        def recorded(*args: Any, choose: Any = module.schedule) -> Any:
            tile, split = choose(*args)
            chosen.add((*tile.values(), split))
            return tile, split

        monkeypatch.setattr(module, "schedule", recorded)
        counts = GPU_ROWS if DEVICE.type == "cuda" else ROWS
        weight, bias = normal(outer, inner, dtype=dtype, seed=1) / inner**0.5, normal(outer, dtype=dtype, seed=2)
        x = normal(max(counts), inner, dtype=dtype)
        residual = normal(max(counts), outer // 2 if activation == "glu" else outer, dtype=dtype, seed=3)

        def run(rows: slice | torch.Tensor) -> torch.Tensor:
            call = IMPLS["triton"]
            return call(x[rows], weight, bias, activation=activation, residual=residual[rows], scale=0.5)

        full = run(slice(None))
        for count in counts:
            assert torch.equal(run(slice(0, count)), full[:count]), count
            rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(count))[:count].to(DEVICE)
            assert torch.equal(run(rows), full[rows]), count
        assert len(chosen) > 1, f"only {chosen}: choose rows that other tiles take"
        assert inner < 300 or {False, True} == {split for *_, split in chosen}

    @pytest.mark.usefixtures("products_in_order")
    def test_the_triton_kernel_of_linear_has_other_bits_with_other_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
        """So the test above fails if the number of rows chooses the chunks."""
        x, weight = normal(5, 300), normal(64, 300, seed=1)
        config = config_for("linear", (64, 300), x.dtype, DEVICE)
        results = []
        for chunk in (0, 128):
            monkeypatch.setattr(module, "config_for", lambda *_, chunk=chunk: {**config, "CHUNK": chunk})
            results.append(IMPLS["triton"](x, weight))
        assert not torch.equal(*results)


def test_the_tiles_of_an_architecture_use_one_instruction_and_divide_the_chunks() -> None:
    resources = json.loads((Path(__file__).parents[1] / "aot" / "resources.json").read_text(encoding="utf-8"))
    for arch, by_dims in table()["linear"].items():
        kinds = {row["mma"] for key, row in resources.items() if key.startswith(f"linear/{arch}/") and "product" in key}
        assert kinds - {None} == ({"sm_80": {"mma"}, "sm_90": {"wgmma"}, "sm_100": {"tcgen05"}}.get(arch, set()))
        for config in (config for entries in by_dims.values() for config in entries.values()):
            for tile in (dict(zip(module.TILE, sizes, strict=True)) for sizes in config["TILES"]):
                assert config["CHUNK"] % tile["BLOCK_K"] == 0
                assert tile["BLOCK_K"] % 16 == 0
