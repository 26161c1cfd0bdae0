"""Which implementation of an operation runs, and with which configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from seamless_engine import Engine
from seamless_engine.errors import UsageError
from seamless_kernels import config, jit, native
from seamless_kernels.config import TABLE, config_for
from seamless_kernels.dispatch import BACKENDS, backend_for

CPU = torch.device("cpu")
HALF = torch.bfloat16
IMPLS = {"torch": None, "triton": None}
ON_A_GPU: Any = SimpleNamespace(device=torch.device("cuda"))  # as much of a tensor as dispatch looks at


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    sm_90 = {
        "64": {"*": {"BLOCK": 1}},
        "1024": {"float32": {"BLOCK": 2}, "*": {"BLOCK": 3}},
        "4096": {"*": {"BLOCK": 4}},
    }
    table = {"op": {"sm_80": {"64": {"*": {"BLOCK": 5}}}, "sm_90": sm_90, "interpreter": {"64": {"*": {"BLOCK": 6}}}}}
    monkeypatch.setattr(config, "table", lambda: table)
    config._lookup.cache_clear()
    monkeypatch.setattr(config, "architecture", lambda device: "interpreter" if device == CPU else device)
    yield
    config._lookup.cache_clear()


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
def test_an_entry_is_exact_or_the_nearest(dims: int, dtype: torch.dtype, device: Any, block: int) -> None:
    assert config_for("op", (dims,), dtype, device) == {"BLOCK": block, "enable_fp_fusion": True}


@pytest.mark.usefixtures("entries")
def test_what_was_given_may_be_changed() -> None:
    config_for("op", (64,), HALF, CPU)["BLOCK"] = 0
    assert config_for("op", (64,), HALF, CPU)["BLOCK"] == 6


@pytest.mark.usefixtures("entries")
def test_a_gpu_that_is_too_old_is_refused() -> None:
    device: Any = "sm_75"
    with pytest.raises(ValueError, match="compute capability 8.0 or newer, this one is sm_75: use device='cpu'"):
        config_for("op", (64,), HALF, device)


def test_the_table_has_every_architecture_and_dims_of_one_kind() -> None:
    for op, by_arch in json.loads(TABLE.read_text(encoding="utf-8")).items():
        assert set(by_arch) == {"sm_80", "sm_90", "sm_100", "interpreter"}, op
        assert len({len(config.parse_dims(key)) for by_dims in by_arch.values() for key in by_dims}) == 1, op


def test_the_cpu_runs_no_kernel_unless_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEAMLESS_BACKEND", raising=False)
    assert backend_for(torch.ones(1), IMPLS) == "torch"
    assert backend_for(torch.ones(1), IMPLS | {"native": None}) == "native"


def test_a_gpu_runs_kernels_where_triton_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "interpreted", lambda: False)
    for forced, installed, chosen in (("", True, "triton"), ("triton", True, "triton"), ("", False, "torch")):
        monkeypatch.setenv("SEAMLESS_BACKEND", forced)
        monkeypatch.setattr(jit, "available", lambda installed=installed: installed)
        assert backend_for(ON_A_GPU, IMPLS | {"native": None}) == chosen


def test_an_implementation_can_be_forced_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "csrc", native)
    for name in BACKENDS["cpu"]:
        monkeypatch.setenv("SEAMLESS_BACKEND", name)
        assert backend_for(torch.ones(1), {"torch": None, name: None}) == name
        assert backend_for(torch.ones(1), {"torch": None}) == "torch"
    monkeypatch.setenv("SEAMLESS_BACKEND", "trition")
    with pytest.raises(ValueError, match="use one of native, onednn, torch, triton, or unset it"):
        backend_for(torch.ones(1), IMPLS)


def test_native_kernels_are_the_cpus_and_torch_stands_in_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "csrc_cuda", native)
    monkeypatch.setenv("SEAMLESS_BACKEND", "native")
    assert backend_for(ON_A_GPU, IMPLS | {"native": None}) == "torch"


@pytest.mark.parametrize("tensor,compiler", [(torch.ones(1), "g\\+\\+"), (ON_A_GPU, "nvcc")], ids=["cpu", "cuda"])
def test_native_is_refused_where_it_was_not_built(tensor: Any, compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "csrc", None)
    monkeypatch.setattr(native, "csrc_cuda", None)
    monkeypatch.setenv("SEAMLESS_BACKEND", "native")
    with pytest.raises(
        ValueError, match=f"not built for {tensor.device}: install {compiler} and seamless-engine again"
    ):
        backend_for(tensor, IMPLS)


def test_onednn_is_refused_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAMLESS_BACKEND", "onednn")
    with pytest.raises(ValueError, match="runs on the CPU, and the data is on cuda: unset it"):
        backend_for(ON_A_GPU, IMPLS)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(ValueError, match="this torch was built without: unset it"):
        backend_for(torch.ones(1), IMPLS)


def test_triton_is_refused_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAMLESS_BACKEND", "triton")
    monkeypatch.setattr(jit, "available", lambda: True)
    monkeypatch.setattr(jit, "interpreted", lambda: False)
    with pytest.raises(ValueError, match="set TRITON_INTERPRET=1"):
        backend_for(torch.ones(1), IMPLS)
    monkeypatch.setattr(jit, "interpreted", lambda: True)
    assert backend_for(torch.ones(1), IMPLS) == "triton"
    monkeypatch.setattr(jit, "available", lambda: False)
    with pytest.raises(ValueError, match=r"not installed: pip install 'seamless-engine\[cuda\]'"):
        backend_for(torch.ones(1), IMPLS)


def test_an_engine_refuses_what_cannot_run_before_it_loads_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "csrc", None)
    monkeypatch.setenv("SEAMLESS_BACKEND", "native")
    with pytest.raises(UsageError, match="not built for cpu: install g"):
        Engine.from_pretrained("no/such/folder", device="cpu")
