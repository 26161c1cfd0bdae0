"""The stored table of public uses is complete and has no difference. A part of it is run again."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import public_uses
import pytest
import torch
from public_uses import BOTH, DIFFERS, EQUAL, MORE, REFUSED, judged

from seamless_engine import UsageError
from support.repository import ROOT
from support.uses import AFTER_LOADING, USES

STORED = json.loads((ROOT / "benchmarks" / "results" / "public-uses.json").read_text(encoding="utf-8"))
STATUS = {entry["use"]: entry["status"] for entry in STORED["uses"]}
PART = list(AFTER_LOADING)[::9]


def test_table_of_public_uses_has_every_use_and_none_differs() -> None:
    assert list(STATUS) == list(USES)
    assert set(STATUS.values()) <= {EQUAL, REFUSED, BOTH, MORE}
    assert STORED["tally"][EQUAL] > 0.8 * len(STATUS)


def test_run_repeats_a_part_of_the_table() -> None:
    found = public_uses.run({name: USES[name] for name in PART})
    assert {name: status for name, (status, _) in found.items()} == {name: STATUS[name] for name in PART}


@pytest.mark.parametrize(
    ("theirs", "ours", "status"),
    [
        (torch.ones(2), torch.ones(2), EQUAL),
        (torch.ones(2), torch.zeros(2), DIFFERS),
        (torch.ones(2), torch.ones(2, dtype=torch.int64), DIFFERS),
        (torch.ones(2), np.ones(2, np.float32), DIFFERS),
        ({"text": "a"}, {"text": "a"}, EQUAL),
        ({"text": "a"}, {}, DIFFERS),
        ([1, 2], [1], DIFFERS),
        (True, False, DIFFERS),
        ("a", UsageError("no"), REFUSED),
        ("a", AttributeError("'X' object has no attribute 'y'"), DIFFERS),
        ("a", AttributeError("X has no 'y': look elsewhere"), REFUSED),
        ("a", TypeError("no"), DIFFERS),
        (ValueError("no"), "a", MORE),
        (ValueError("no"), UsageError("no"), BOTH),
        (ValueError("no"), AttributeError("X has no 'y': look elsewhere"), BOTH),
        (ValueError("no"), KeyError("no"), DIFFERS),
    ],
)
def test_run_reports_a_difference(theirs: Any, ours: Any, status: str) -> None:
    assert judged(theirs, ours)[0] == status
