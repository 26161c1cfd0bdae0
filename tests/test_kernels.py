"""Which implementation of an operation runs, and with which configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from seamless_kernels import config, jit
from seamless_kernels.config import TABLE, config_for
from seamless_kernels.dispatch import BACKENDS, backend_for

CPU = torch.device("cpu")
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
        (4096, HALF, "sm_120", 4),
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


def test_an_implementation_can_be_forced_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {name for names in BACKENDS.values() for name in names} - {"triton"}:
        monkeypatch.setenv("SEAMLESS_BACKEND", name)
        assert backend_for(torch.ones(1), {"torch": None, name: None}) == name
        assert backend_for(torch.ones(1), {"torch": None}) == "torch"
    monkeypatch.setenv("SEAMLESS_BACKEND", "trition")
    with pytest.raises(ValueError, match="use one of native, onednn, torch, triton, or unset it"):
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
