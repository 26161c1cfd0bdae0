"""Which implementation of an operation runs, and with which configuration."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from seamless_engine import Engine
from seamless_engine.errors import UsageError
from seamless_kernels import config, dispatch, jit, native
from seamless_kernels.config import TABLE, config_for
from seamless_kernels.dispatch import BACKENDS, backend_for

CPU, GPU = torch.device("cpu"), torch.device("cuda")
HALF = torch.bfloat16
IMPLS = {"torch": None, "triton": None}


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    sm_90 = {
        "64": {"*": {"BLOCK": 1}},
        "1024": {"float32": {"BLOCK": 2}, "*": {"BLOCK": 3}},
        "4096": {"*": {"BLOCK": 4}},
    }
    table = {"op": {"sm_80": {"64": {"*": {"BLOCK": 5}}}, "sm_90": sm_90, "interpreter": {"64": {"*": {"BLOCK": 6}}}}}
    monkeypatch.setattr(config, "table", lambda: table)
    config.lookup.cache_clear()
    monkeypatch.setattr(config, "architecture", lambda device: "interpreter" if device == CPU else device)
    yield
    config.lookup.cache_clear()


@pytest.mark.usefixtures("entries")
@pytest.mark.parametrize(
    "dims,dtype,device,block",
    [
        (1024, HALF, "sm_90", 3),
        (1024, torch.float32, "sm_90", 2),
        (1100, torch.float32, "sm_90", 2),
        (2048, HALF, "sm_90", 3),  # as far from 4096: the smaller
        (7, HALF, "sm_90", 1),
        (1 << 20, HALF, "sm_90", 4),
        (1024, HALF, "sm_89", 5),
        (4096, HALF, "sm_103", 4),
        (4096, HALF, "sm_120", 5),
        (1024, HALF, CPU, 6),
    ],
)
def test_config_for_gives_the_entry_of_these_dims_or_the_nearest(
    dims: int, dtype: torch.dtype, device: Any, block: int
) -> None:
    assert config_for("op", (dims,), dtype, device) == {"BLOCK": block, "enable_fp_fusion": True}


@pytest.mark.usefixtures("entries")
def test_config_for_gives_a_copy() -> None:
    config_for("op", (64,), HALF, CPU)["BLOCK"] = 0
    assert config_for("op", (64,), HALF, CPU)["BLOCK"] == 6


@pytest.mark.usefixtures("entries")
def test_config_for_refuses_a_gpu_that_is_too_old() -> None:
    device: Any = "sm_75"
    with pytest.raises(ValueError, match="compute capability 8.0 or newer, this one is sm_75: use device='cpu'"):
        config_for("op", (64,), HALF, device)


def test_the_table_has_every_architecture_and_dims_of_one_length() -> None:
    for op, by_arch in json.loads(TABLE.read_text(encoding="utf-8")).items():
        assert set(by_arch) == {"sm_80", "sm_90", "sm_100", "interpreter"}, op
        assert len({len(config.parse_dims(key)) for by_dims in by_arch.values() for key in by_dims}) == 1, op


@pytest.fixture
def force(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`force(name)`: sets SEAMLESS_BACKEND, and lets it be read again."""

    def set_and_forget(name: str) -> None:
        monkeypatch.setenv("SEAMLESS_BACKEND", name)
        dispatch.reset()

    return set_and_forget


def test_backend_for_a_cpu_is_native_where_there_is_csrc(force: Callable[[str], None]) -> None:
    force("")
    assert backend_for(CPU, IMPLS) == "torch"
    assert backend_for(CPU, IMPLS | {"native": None}) == "native"


def test_backend_for_a_gpu_is_triton_where_it_is_installed(
    monkeypatch: pytest.MonkeyPatch, force: Callable[[str], None]
) -> None:
    monkeypatch.setattr(jit, "interpreted", lambda: False)
    for name, installed, chosen in (("", True, "triton"), ("triton", True, "triton"), ("", False, "torch")):
        monkeypatch.setattr(jit, "available", lambda installed=installed: installed)
        force(name)
        assert backend_for(GPU, IMPLS | {"native": None}) == chosen


def test_backend_for_takes_what_is_forced_where_an_operation_has_it(
    monkeypatch: pytest.MonkeyPatch, force: Callable[[str], None]
) -> None:
    monkeypatch.setattr(native, "csrc", native)
    for name in BACKENDS["cpu"]:
        force(name)
        assert backend_for(CPU, {"torch": None, name: None}) == name
        assert backend_for(CPU, {"torch": None}) == "torch"
    force("trition")
    with pytest.raises(ValueError, match="use one of native, onednn, torch, triton, or unset it"):
        backend_for(CPU, IMPLS)


def test_backend_for_reads_the_environment_once(monkeypatch: pytest.MonkeyPatch, force: Callable[[str], None]) -> None:
    force("torch")
    dispatch.settle(CPU)
    monkeypatch.setenv("SEAMLESS_BACKEND", "trition")
    assert backend_for(CPU, IMPLS | {"native": None}) == "torch"


def test_backend_for_a_gpu_is_torch_where_native_is_forced(
    monkeypatch: pytest.MonkeyPatch, force: Callable[[str], None]
) -> None:
    monkeypatch.setattr(native, "csrc_cuda", native)
    force("native")
    assert backend_for(GPU, IMPLS | {"native": None}) == "torch"


@pytest.mark.parametrize("device,compiler", [(CPU, "g\\+\\+"), (GPU, "nvcc")], ids=str)
def test_settle_refuses_native_where_it_was_not_built(
    device: torch.device, compiler: str, monkeypatch: pytest.MonkeyPatch, force: Callable[[str], None]
) -> None:
    monkeypatch.setattr(native, "csrc", None)
    monkeypatch.setattr(native, "csrc_cuda", None)
    force("native")
    with pytest.raises(ValueError, match=f"not built for {device}: install {compiler} and seamless-engine again"):
        dispatch.settle(device)


def test_settle_refuses_onednn_where_it_cannot_run(
    monkeypatch: pytest.MonkeyPatch, force: Callable[[str], None]
) -> None:
    force("onednn")
    with pytest.raises(ValueError, match="runs on the CPU, and the data is on cuda: unset it"):
        dispatch.settle(GPU)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(ValueError, match="this torch was built without: unset it"):
        dispatch.settle(CPU)


def test_settle_refuses_triton_where_it_cannot_run(
    monkeypatch: pytest.MonkeyPatch, force: Callable[[str], None]
) -> None:
    force("triton")
    monkeypatch.setattr(jit, "available", lambda: True)
    monkeypatch.setattr(jit, "interpreted", lambda: False)
    with pytest.raises(ValueError, match="set TRITON_INTERPRET=1"):
        dispatch.settle(CPU)
    monkeypatch.setattr(jit, "interpreted", lambda: True)
    assert backend_for(CPU, IMPLS) == "triton"
    dispatch.reset()
    monkeypatch.setattr(jit, "available", lambda: False)
    with pytest.raises(ValueError, match=r"not installed: pip install 'seamless-engine\[cuda\]'"):
        dispatch.settle(CPU)


def test_an_engine_refuses_what_cannot_run_before_it_loads_anything(
    monkeypatch: pytest.MonkeyPatch, force: Callable[[str], None]
) -> None:
    monkeypatch.setattr(native, "csrc", None)
    force("native")
    with pytest.raises(UsageError, match="not built for cpu: install g"):
        Engine.from_pretrained("no/such/folder", device="cpu")
