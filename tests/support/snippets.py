"""Fenced code of Markdown pages, run as a reader would run it: in order, in one session, from the checkout."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from seamless_engine.cli import main

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
_NOT_CODE = ("", "{toctree}", "{eval-rst}")  # pictures, and what Sphinx reads
_INSTALLATION = ("make", "pip", "git")


@dataclass(frozen=True)
class Block:
    """kind: what follows the opening fence. line: of the page, at which the content starts."""

    kind: str
    content: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(found[1], found[2], text.count("\n", 0, found.start(2)) + 1) for found in _FENCE.finditer(text)]


def run(page: Path) -> Iterator[tuple[str, str]]:
    """What each `text` block of a page shows, and what the code block before it printed.

    Raises AssertionError for a command that fails and for code of a kind that cannot be run.
    """
    session = {"__name__": "__main__"}
    printed = io.StringIO()
    for block in blocks(page):
        if block.kind == "text":
            yield block.content, printed.getvalue()
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            if block.kind == "python":
                code = "\n" * (block.line - 1) + block.content  # for tracebacks
                exec(compile(code, str(page), "exec"), session)
            elif block.kind == "sh":
                for words in commands(block.content):
                    _run_command(words, page)
            else:
                assert block.kind in _NOT_CODE, f"{page}:{block.line}: {block.kind} cannot be run"


def commands(script: str) -> list[list[str]]:
    """Words of each command of a block, without comments."""
    lines = script.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def _run_command(words: list[str], page: Path) -> None:
    if words[0] in _INSTALLATION:
        return
    assert words[0] == "seamless-engine", f"{page}: {words[0]} is neither our command nor an installation"
    assert main(words[1:]) == 0, f"{page}: {shlex.join(words)} failed"
