"""One engine for the tests of a file, which must leave it free."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from seamless_engine import Engine
from support.callers import assert_free


@pytest.fixture(scope="module")
def engine(checkpoint: Callable[[int], Path]) -> Engine:
    engine = Engine.from_pretrained(checkpoint(0), device="cpu")
    assert engine.core.runner.vocoder is not None
    engine.core.runner.vocoder.window = 30  # small, so that speech comes in several pieces
    return engine


@pytest.fixture(autouse=True)
def nothing_is_held_afterwards(engine: Engine) -> Iterator[None]:
    yield
    assert_free(engine)
