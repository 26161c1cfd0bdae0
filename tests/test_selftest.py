"""selftest: passes on a machine whose operations are right, and names the operation that is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from seamless_engine import cli, selftest
from seamless_kernels import linear
from support.snippets import ROOT, blocks

GUIDE = ROOT / "docs" / "guide.md"
CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer products: all of them take half a minute."""
    monkeypatch.setattr(selftest, "PRODUCTS", selftest.PRODUCTS[:2])


def outcomes(names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> list[selftest.Outcome]:
    monkeypatch.setattr(selftest, "CHECKS", {name: selftest.CHECKS[name] for name in names})
    return list(selftest.run(CPU))


@pytest.mark.usefixtures("small")
def test_selftest_finds_no_problem_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["selftest", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 * (len(selftest.CHECKS) - 1) + 1
    assert all(line.endswith(" ok") for line in lines)
    assert {line.split()[0] for line in lines} == {name.split()[0] for name in selftest.CHECKS}
    # The guide shows some of the lines; on another machine another implementation may run.
    shown = [line for block in blocks(GUIDE) if not block.kind for line in block.content.splitlines() if "  ok" in line]
    assert shown and {without_implementation(line) for line in shown} <= {*map(without_implementation, lines)}


def without_implementation(line: str) -> str:
    words = line.split()
    return " ".join(words[:-2] + words[-1:])


def sums_by_rows(x: torch.Tensor, weight: Any, bias: Any = None, **options: Any) -> torch.Tensor:
    """The right product, with another order of sums for many rows, as MKL has on some processors."""
    order = torch.arange(x.shape[1]) if len(x) < 167 else torch.arange(x.shape[1]).flip(0)
    return linear.linear(x[:, order].contiguous(), linear.pack_weight(weight[:, order]), bias, **options)


def sums_in_a_narrow_dtype(x: torch.Tensor, weight: Any, bias: Any = None, **options: Any) -> torch.Tensor:
    """A product whose two halves are rounded before they are added."""
    half = x.shape[1] // 2
    parts = [
        linear.linear(x[:, columns].contiguous(), linear.pack_weight(weight[:, columns]))
        for columns in (slice(0, half), slice(half, None))
    ]
    return (parts[0] + parts[1]).to(torch.bfloat16).to(x.dtype) + bias


@pytest.mark.parametrize(
    "fault,problem",
    [(sums_by_rows, "rows have other bits than among 400"), (sums_in_a_narrow_dtype, "numbers are wrong, by up to")],
)
@pytest.mark.usefixtures("small")
def test_selftest_finds_a_fault_in_linear(
    fault: Callable[..., torch.Tensor],
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(selftest, "CHECKS", {"linear": selftest.CHECKS["linear"]})

    class Faulty:
        pack_weight = staticmethod(lambda weight: weight)
        linear = staticmethod(fault)

    monkeypatch.setattr(selftest, "linear", Faulty)
    assert cli.main(["selftest", "--device", "cpu"]) == 1
    captured = capsys.readouterr()
    assert captured.out.count(problem) >= 1 and "[1024, 160]: " in captured.out
    assert "checks failed: results on this machine may be wrong" in captured.err


def test_selftest_reports_an_operation_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> torch.Tensor:
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr(selftest.layer_norm, "layer_norm", refuse)
    found = outcomes(("layer_norm",), monkeypatch)
    assert [outcome.problem for outcome in found] == ["RuntimeError: could not create a primitive"] * 3
