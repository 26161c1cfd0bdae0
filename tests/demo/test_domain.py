"""Sentences of the recipe: right in every language, one text per concept, and either trained on or held out."""

from __future__ import annotations

import itertools
import random

import pytest

import support.repository  # noqa: F401
from demo.train.domain import TEMPLATES, Concept, distinct, held_out, sample_concept, text
from demo.train.words import LANGUAGES, number

RIGHT: list[tuple[Concept, str, str, str, str]] = [
    (("number", 21), "twenty-one", "vingt et un", "einundzwanzig", "veintiuno"),
    (
        ("number", 1981),
        "one thousand nine hundred and eighty-one",
        "mille neuf cent quatre-vingt-un",
        "eintausendneunhunderteinundachtzig",
        "mil novecientos ochenta y uno",
    ),
    (("time", (1, 0)), "it is one o'clock", "il est une heure", "es ist ein Uhr", "es la una en punto"),
    (
        ("time", (21, 5)),
        "it is twenty-one oh five",
        "il est vingt et une heures cinq",
        "es ist einundzwanzig Uhr fünf",
        "son las veintiuna y cinco",
    ),
    (("date", (1, 7)), "the first of August", "le premier août", "der erste August", "el uno de agosto"),
    (
        ("price", (1, 0)),
        "it costs one euro",
        "cela coûte un euro",
        "das kostet ein Euro",
        "cuesta un euro",
    ),
    (
        ("price", (121, 20)),
        "it costs one hundred and twenty-one euros and twenty cents",
        "cela coûte cent vingt et un euros et vingt centimes",
        "das kostet einhunderteinundzwanzig Euro und zwanzig Cent",
        "cuesta ciento veintiún euros y veinte céntimos",
    ),
    (
        ("come", (3, 4)),
        "I arrive on the third of May",
        "j'arrive le trois mai",
        "ich komme am dritten Mai an",
        "llego el tres de mayo",
    ),
    (
        ("delay", 4, 31),
        "the train from Rome is thirty-one minutes late",
        "le train de Rome a trente et une minutes de retard",
        "der Zug aus Rom hat einunddreißig Minuten Verspätung",
        "el tren de Roma lleva treinta y un minutos de retraso",
    ),
    (
        ("far", 1),
        "how far is it to the airport",
        "quelle distance y a-t-il jusqu'à l'aéroport",
        "wie weit ist es zum Flughafen",
        "qué distancia hay al aeropuerto",
    ),
    (
        ("where_mine", 4, 9),
        "my suitcase is at the church",
        "ma valise est à l'église",
        "mein Koffer ist an der Kirche",
        "mi maleta está en la iglesia",
    ),
    (
        ("order", 6, 0),
        "I would like an omelette and a coffee",
        "je voudrais une omelette et un café",
        "ich möchte ein Omelett und einen Kaffee",
        "quisiera una tortilla y un café",
    ),
]


@pytest.mark.parametrize("concept, eng, fra, deu, spa", RIGHT, ids=lambda value: str(value))
def test_texts_agree_in_gender_number_and_case(concept: Concept, eng: str, fra: str, deu: str, spa: str):
    assert [text(concept, lang) for lang in LANGUAGES] == [eng, fra, deu, spa]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_number_before_a_noun_differs_only_where_it_ends_in_one(lang: str):
    for n, gender in itertools.product(range(1000), "mf"):
        changed = number(n, lang, gender) != number(n, lang)
        assert not changed or n % 10 == 1


def test_every_template_is_trained_on_and_all_but_the_smallest_are_held_out_too():
    trained = {concept[0] for concept in distinct(random.Random(0), False, 2000)}
    held = {concept[0] for concept in distinct(random.Random(0), True, 900)}
    assert trained == set(TEMPLATES)
    assert len(held) >= 40  # one in twenty of a template with few concepts may be none


@pytest.mark.parametrize("lang", LANGUAGES)
def test_two_concepts_never_have_one_text_so_no_held_out_sentence_is_trained_on(lang: str):
    rng = random.Random(1)
    concepts: dict[str, Concept] = {}
    for _ in range(8000):
        concept = sample_concept(rng, rng.random() < 0.3)
        words = text(concept, lang)
        assert concepts.setdefault(words, concept) == concept
        assert "{" not in words and words == " ".join(words.split())


def test_the_split_is_the_same_in_every_process():
    assert [n for n in range(100) if held_out(("number", n))] == [3, 33, 42, 77, 91, 99]
