"""The README and the pages of docs/ are true: their code runs, their links lead to files, their lists are complete."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import seamless_engine
import seamless_engine.hf
from seamless_engine import errors
from support.snippets import PAGES, ROOT, blocks, run

DOCS = ROOT / "docs"
FOLDERS = (ROOT / "engine", ROOT / "kernels", ROOT / "tools")
SOURCES = (".py", ".h", ".cpp", ".cu")
KINDS = {name for name, value in vars(errors).items() if isinstance(value, type)}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with what the pages read of a checkout, where files may be written."""
    for name in ("demo", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("checkout")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_runs_and_prints_what_is_shown_below_it(page: Path):
    for shown, printed in run(page):
        assert printed == shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", prose(page))
    for target in targets:
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_every_page_is_in_the_index():
    named = {line for block in blocks(DOCS / "index.md") if block.kind == "{toctree}" for line in block.content.split()}
    assert {page.stem for page in PAGES if page.parent == DOCS} <= named | {"index"}


def test_the_reference_has_every_public_name():
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\.\. auto\w+:: ([\w.]+)$", page, flags=re.MULTILINE))
    for module in (seamless_engine, seamless_engine.hf):
        assert {f"{module.__name__}.{name}" for name in module.__all__} <= documented


def test_the_structure_page_names_every_folder_of_sources_and_no_path_that_is_gone():
    page = (DOCS / "structure.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:engine|kernels|csrc|tools|tests|benchmarks|demo)/[\w./]*)`", page))
    assert not [path for path in named if not (ROOT / path).exists()]
    folders = {
        path.parent for place in (*FOLDERS, ROOT / "csrc") for path in place.rglob("*") if path.suffix in SOURCES
    }
    assert {f"{folder.relative_to(ROOT).as_posix()}/" for folder in folders} <= named


def test_messages_of_the_troubleshooting_page_are_those_of_the_code():
    said = "\n".join(message for folder in FOLDERS for path in folder.rglob("*.py") for message in texts(path))
    quoted = [cell for cell in first_column("troubleshooting.md") if cell not in KINDS]
    assert len(quoted) > 20
    for message in quoted:
        assert message.strip("… ") in said, message


def test_the_troubleshooting_page_knows_every_kind_of_error_and_lists_nothing_twice():
    listed = first_column("troubleshooting.md")
    assert set(listed) >= KINDS - {"SeamlessError"}
    assert sorted(listed) == sorted(set(listed))


def first_column(name: str) -> list[str]:
    """The cells of a page's tables that are first in their row and are code only."""
    return re.findall(r"^\| `([^`]+)` \|", (DOCS / name).read_text(encoding="utf-8"), flags=re.MULTILINE)


def prose(page: Path) -> str:
    """The page without its code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def texts(path: Path) -> Iterator[str]:
    """String constants of a file, `…` in place of what an f-string or a log fills in."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub("%[sd]", "…", node.value)
