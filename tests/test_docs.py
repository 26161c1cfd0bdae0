"""The README and the pages of docs/ do what they say: their code runs, their links lead to files, lists are whole."""

from __future__ import annotations

import ast
import fnmatch
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


def test_the_map_of_the_code_has_every_module():
    page = (DOCS / "structure.md").read_text(encoding="utf-8")
    drawn = [
        name
        for cell in re.findall(r"^\| (`.+?`) \|", page, flags=re.MULTILINE)
        for name in cell.strip("`").split("`, `")
    ]
    modules = [path for folder in FOLDERS for path in folder.rglob("*.py")]
    files = [path for path in modules if path.name not in ("__init__.py", "__main__.py")]
    files += [path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".h", ".cpp", ".cu")]
    names = [path.relative_to(ROOT).as_posix() for path in files]
    found = [name for pattern in drawn for name in fnmatch.filter(names, pattern)]
    assert sorted(found) == sorted(names)
    assert all(fnmatch.filter(names, pattern) for pattern in drawn)


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
    """The cells of a page's tables that are first in their row and code as a whole."""
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
