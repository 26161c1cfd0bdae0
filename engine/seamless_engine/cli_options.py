"""Options that several commands have, and those made of the fields of a dataclass."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import inspect
import re
from typing import Any

DEFAULT_MODEL = "facebook/seamless-m4t-v2-large"


def add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", default="auto", help="auto (the default), cpu, cuda, cuda:1, ...")


def add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", default=DEFAULT_MODEL, help="checkpoint folder or hub id (default: %(default)s)")


def add_field(group: Any, owner: type, name: str, option: str | None = None) -> None:
    """An option for a field of a dataclass, explained by its docstring; absent from the arguments if not given.

    option: its name, if it is not that of the field.
    """
    [default] = [field.default for field in dataclasses.fields(owner) if field.name == name]
    text = f"{_meanings(owner).get(name, '')} (default: {default})"
    group.add_argument(f"--{option or name}", type=value, default=argparse.SUPPRESS, metavar="VALUE", help=text)


def value(text: str) -> Any:
    """A number, true, false, none or a list. Any other text stays a string, which the dataclass checks."""
    if text.lower() in ("true", "false", "none"):
        text = text.capitalize()
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


@functools.cache
def _meanings(owner: type) -> dict[str, str]:
    """Field → its description in the docstring, in ASCII, which every terminal prints."""
    docstring = inspect.cleandoc(owner.__doc__ or "")  # python -OO removes it
    found = re.findall(r"^(\w+(?:, \w+)*): (.+(?:\n    .+)*)", docstring, flags=re.MULTILINE)
    plain = str.maketrans({"·": "*", "×": "*", "`": None, "%": "%%"})
    return {
        name: " ".join(text.split()).rstrip(".").translate(plain) for names, text in found for name in names.split(", ")
    }
