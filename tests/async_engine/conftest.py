"""One engine for the tests of a file, which must leave it free."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from seamless_engine import Engine
from support.async_engine import Checkpoint, Reading, Steps
from support.callers import assert_free


@pytest.fixture(scope="module")
def engine(checkpoint: Checkpoint) -> Engine:
    return Engine.from_pretrained(checkpoint(0), device="cpu", tasks=["t2tt"])


@pytest.fixture(autouse=True)
def nothing_is_held_afterwards(engine: Engine) -> Iterator[None]:
    yield
    assert_free(engine)


@pytest.fixture
def steps(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(engine, monkeypatch)


@pytest.fixture
def reading(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Reading:
    return Reading(engine, monkeypatch)
