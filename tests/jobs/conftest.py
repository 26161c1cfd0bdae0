"""A small job, and the command that runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seamless_engine import Engine
from support.jobs import write_lines

TEXTS = ("Good morning! How are you today?", "The train to the city leaves at 9:45.", "a", "Where is the key?")


@pytest.fixture(scope="session")
def model(checkpoint: Callable[..., Path]) -> str:
    return str(checkpoint(0))


@pytest.fixture(scope="session")
def loaded(model: str) -> Engine:
    return Engine.from_pretrained(model)


@pytest.fixture
def in_process(loaded: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands in this process use one engine, which stays open."""
    monkeypatch.setattr(Engine, "from_pretrained", lambda *args, **kwargs: loaded)
    monkeypatch.setattr(loaded, "close", lambda: None)


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> str:
    """60 items: texts to text and to speech, and six that fail."""
    lines: list[Any] = []
    for index in range(54):
        task = "t2st" if index % 4 == 3 else "t2tt"
        lines.append({"id": f"dir/{index}", "text": f"{TEXTS[index % 4]} {index}", "task": task, "tgt_lang": "fra"})
    lines[10:10] = ["{", {"id": "none", "task": "t2tt"}, {"id": "dir/1", "text": "again", "task": "t2tt"}]
    lines[30:30] = [b"\xff\xfe", {"id": "x", "text": "a", "task": "sing"}, {"id": "y", "text": "a", "tgt_lang": "xxx"}]
    return write_lines(tmp_path_factory.mktemp("manifest") / "list.jsonl", lines)


@pytest.fixture(scope="session")
def command(model: str, manifest: str) -> Callable[..., list[str]]:
    """`command(folder, *more)`: the arguments that run the small job."""

    def arguments(folder: Path, *more: str) -> list[str]:
        options = [
            "--task",
            "t2tt",
            "--src_lang",
            "eng",
            "--tgt_lang",
            "fra",
            "--max_new_tokens",
            "8",
            "--max_num_seqs",
            "4",
        ]
        return ["run", manifest, *options, "--model", model, "--output_dir", str(folder), *more]

    return arguments
