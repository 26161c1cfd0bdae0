"""Sphinx: Markdown pages and the API reference from docstrings. `make docs` builds docs/_build."""

from __future__ import annotations

import re
from importlib.metadata import version as installed_version
from typing import Any

project = "seamless-engine"
version = release = installed_version(project)
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"{project} {version}"
html_copy_source = False
html_show_copyright = False
smartquotes = False  # "auto" in a docstring is a value

myst_heading_anchors = 3
default_role = "code"  # single backticks in docstrings
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100

_FIELD = re.compile(r"([a-z_]\w*(?:, [a-z_]\w*)*(?: \([^)]*\))?): (.+)")


def list_fields(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings say `name: meaning`, continued with indentation; for reST that becomes a definition list."""
    written: list[str] = []
    listing = False
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field and (listing or not written or not written[-1]):
            listing = True
            written += ["", f"``{field[1]}``", f"    {field[2]}"]
        else:
            listing = listing and bool(line)
            written.append(f"    {line.strip()}" if listing else line)
    lines[:] = written


def hide_inner_constructors(app: Any, what: str, name: str, obj: Any, *rest: Any) -> tuple[str, None] | None:
    """Classes that `from_pretrained` makes are not called by their users."""
    made = what == "class" and (hasattr(obj, "from_pretrained") or name.endswith("Pipeline"))
    return ("", None) if made else None


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", list_fields)
    app.connect("autodoc-process-signature", hide_inner_constructors)
