"""Concepts and their exact texts: a concept is a template's name and one value per slot, the same in every language.

templates.tsv has the domain: numbers, times, dates, prices and a traveller's phrases. A row is a name, a weight in the
training data, and one text per language. A field names a slot; a 2 behind the name tells two of one kind apart ({dish}
and {dish2} hold different dishes).
"""

from __future__ import annotations

import csv
import random
import string
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from demo.train.slots import SLOTS, Filled
from demo.train.words import LANGUAGES

Concept = tuple[Any, ...]


class Template(NamedTuple):
    weight: float
    texts: dict[str, str]


def _read() -> dict[str, Template]:
    with open(Path(__file__).with_name("templates.tsv"), encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return {row["name"]: Template(float(row["weight"]), {lang: row[lang] for lang in LANGUAGES}) for row in rows}


TEMPLATES = _read()


@cache
def _fields(template: str) -> tuple[str, ...]:
    """Slot fields in the order of the English text."""
    return tuple(name for _, name, _, _ in string.Formatter().parse(TEMPLATES[template].texts["eng"]) if name)


def _kind(field: str) -> str:
    return field.rstrip("2")


def text(concept: Concept, lang: str) -> str:
    template, *values = concept
    filled = {f: Filled(SLOTS[_kind(f)], value, lang) for f, value in zip(_fields(template), values, strict=True)}
    return TEMPLATES[template].texts[lang].format(**filled)


def held_out(concept: Concept) -> bool:
    """One concept in twenty is never trained on, in no language. crc32: the same in every process."""
    return zlib.crc32(repr(concept).encode()) % 20 == 0


def sample_concept(rng: random.Random, held: bool) -> Concept:
    """A random concept of the training set, or of the held-out set: first a template by weight, then its values."""
    names = list(TEMPLATES)
    while True:
        name = rng.choices(names, [TEMPLATES[n].weight for n in names])[0]
        fields = _fields(name)
        values = [SLOTS[_kind(f)].sample(rng) for f in fields]
        distinct = {(_kind(f), value) for f, value in zip(fields, values, strict=True)}
        concept = (name, *values)
        if len(distinct) == len(fields) and held_out(concept) == held:
            return concept


def distinct(rng: random.Random, held: bool, count: int) -> Iterator[Concept]:
    """`count` different concepts."""
    seen: set[Concept] = set()
    while len(seen) < count:
        concept = sample_concept(rng, held)
        if concept not in seen:
            seen.add(concept)
            yield concept
