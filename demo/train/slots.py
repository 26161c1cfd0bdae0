"""What may stand in a template: each slot has its values and says how one of them reads in a language and a form.

A template writes {city}, {count:f} or {place:to}: the part after the colon is the form.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from demo.train.words import LANGUAGES, Noun, number, ordinal


class Slot(NamedTuple):
    """sample: a value from a random generator. read: (value, language, form) → words."""

    sample: Callable[[random.Random], Any]
    read: Callable[[Any, str, str], str]


class Filled:
    """A slot's value in one language, for str.format."""

    def __init__(self, slot: Slot, value: Any, lang: str) -> None:
        self.slot, self.value, self.lang = slot, value, lang

    def __format__(self, form: str) -> str:
        return self.slot.read(self.value, self.lang, form)


CITIES = [
    ("Paris", "Paris", "Paris", "París"),
    ("London", "Londres", "London", "Londres"),
    ("Berlin", "Berlin", "Berlin", "Berlín"),
    ("Madrid", "Madrid", "Madrid", "Madrid"),
    ("Rome", "Rome", "Rom", "Roma"),
    ("Vienna", "Vienne", "Wien", "Viena"),
    ("Lisbon", "Lisbonne", "Lissabon", "Lisboa"),
    ("Geneva", "Genève", "Genf", "Ginebra"),
    ("Prague", "Prague", "Prag", "Praga"),
    ("Brussels", "Bruxelles", "Brüssel", "Bruselas"),
    ("Munich", "Munich", "München", "Múnich"),
    ("Warsaw", "Varsovie", "Warschau", "Varsovia"),
]
MONTHS = [
    ("January", "janvier", "Januar", "enero"),
    ("February", "février", "Februar", "febrero"),
    ("March", "mars", "März", "marzo"),
    ("April", "avril", "April", "abril"),
    ("May", "mai", "Mai", "mayo"),
    ("June", "juin", "Juni", "junio"),
    ("July", "juillet", "Juli", "julio"),
    ("August", "août", "August", "agosto"),
    ("September", "septembre", "September", "septiembre"),
    ("October", "octobre", "Oktober", "octubre"),
    ("November", "novembre", "November", "noviembre"),
    ("December", "décembre", "Dezember", "diciembre"),
]
DAYS = [
    ("Monday", "lundi", "Montag", "lunes"),
    ("Tuesday", "mardi", "Dienstag", "martes"),
    ("Wednesday", "mercredi", "Mittwoch", "miércoles"),
    ("Thursday", "jeudi", "Donnerstag", "jueves"),
    ("Friday", "vendredi", "Freitag", "viernes"),
    ("Saturday", "samedi", "Samstag", "sábado"),
    ("Sunday", "dimanche", "Sonntag", "domingo"),
]
TONGUES = [
    ("English", "anglais", "Englisch", "inglés"),
    ("French", "français", "Französisch", "francés"),
    ("German", "allemand", "Deutsch", "alemán"),
    ("Spanish", "espagnol", "Spanisch", "español"),
    ("Italian", "italien", "Italienisch", "italiano"),
    ("Portuguese", "portugais", "Portugiesisch", "portugués"),
    ("Polish", "polonais", "Polnisch", "polaco"),
    ("Russian", "russe", "Russisch", "ruso"),
]
EXTRAS = [
    ("milk", "lait", "Milch", "leche"),
    ("sugar", "sucre", "Zucker", "azúcar"),
    ("salt", "sel", "Salz", "sal"),
    ("onions", "oignons", "Zwiebeln", "cebolla"),
    ("cheese", "fromage", "Käse", "queso"),
    ("lemon", "citron", "Zitrone", "limón"),
]
PLACES = [
    Noun(("station", ""), ("gare", "", "f"), ("Bahnhof", "", "m"), ("estación", "", "f")),
    Noun(("airport", ""), ("aéroport", "", "m"), ("Flughafen", "", "m"), ("aeropuerto", "", "m")),
    Noun(("hotel", ""), ("hôtel", "", "m"), ("Hotel", "", "n"), ("hotel", "", "m")),
    Noun(("museum", ""), ("musée", "", "m"), ("Museum", "", "n"), ("museo", "", "m")),
    Noun(("pharmacy", ""), ("pharmacie", "", "f"), ("Apotheke", "", "f"), ("farmacia", "", "f")),
    Noun(("beach", ""), ("plage", "", "f"), ("Strand", "", "m"), ("playa", "", "f")),
    Noun(("post office", ""), ("poste", "", "f"), ("Post", "", "f"), ("oficina de correos", "", "f")),
    Noun(("market", ""), ("marché", "", "m"), ("Markt", "", "m"), ("mercado", "", "m")),
    Noun(("harbour", ""), ("port", "", "m"), ("Hafen", "", "m"), ("puerto", "", "m")),
    Noun(("church", ""), ("église", "", "f"), ("Kirche", "", "f"), ("iglesia", "", "f")),
    Noun(("swimming pool", ""), ("piscine", "", "f"), ("Schwimmbad", "", "n"), ("piscina", "", "f")),
    Noun(("theatre", ""), ("théâtre", "", "m"), ("Theater", "", "n"), ("teatro", "", "m")),
]
DISHES = [
    Noun(("coffee", "coffees"), ("café", "cafés", "m"), ("Kaffee", "Kaffee", "m"), ("café", "cafés", "m")),
    Noun(("tea", "teas"), ("thé", "thés", "m"), ("Tee", "Tee", "m"), ("té", "tés", "m")),
    Noun(("beer", "beers"), ("bière", "bières", "f"), ("Bier", "Bier", "n"), ("cerveza", "cervezas", "f")),
    Noun(("soup", "soups"), ("soupe", "soupes", "f"), ("Suppe", "Suppen", "f"), ("sopa", "sopas", "f")),
    Noun(("salad", "salads"), ("salade", "salades", "f"), ("Salat", "Salate", "m"), ("ensalada", "ensaladas", "f")),
    Noun(("pizza", "pizzas"), ("pizza", "pizzas", "f"), ("Pizza", "Pizzen", "f"), ("pizza", "pizzas", "f")),
    Noun(("omelette", "omelettes"), ("omelette", "omelettes", "f"), ("Omelett", "Omeletts", "n"),
         ("tortilla", "tortillas", "f")),
    Noun(("orange", "oranges"), ("orange", "oranges", "f"), ("Orange", "Orangen", "f"), ("naranja", "naranjas", "f")),
    Noun(("apple", "apples"), ("pomme", "pommes", "f"), ("Apfel", "Äpfel", "m"), ("manzana", "manzanas", "f")),
    Noun(("sandwich", "sandwiches"), ("sandwich", "sandwichs", "m"), ("Sandwich", "Sandwiches", "n"),
         ("bocadillo", "bocadillos", "m")),
]  # fmt: skip
BELONGINGS = [
    Noun(("passport", ""), ("passeport", "", "m"), ("Pass", "", "m"), ("pasaporte", "", "m")),
    Noun(("bag", ""), ("sac", "", "m"), ("Tasche", "", "f"), ("bolso", "", "m")),
    Noun(("key", ""), ("clé", "", "f"), ("Schlüssel", "", "m"), ("llave", "", "f")),
    Noun(("telephone", ""), ("téléphone", "", "m"), ("Telefon", "", "n"), ("teléfono", "", "m")),
    Noun(("suitcase", ""), ("valise", "", "f"), ("Koffer", "", "m"), ("maleta", "", "f")),
    Noun(("ticket", ""), ("billet", "", "m"), ("Fahrkarte", "", "f"), ("billete", "", "m")),
    Noun(("umbrella", ""), ("parapluie", "", "m"), ("Regenschirm", "", "m"), ("paraguas", "", "m")),
    Noun(("camera", ""), ("caméra", "", "f"), ("Kamera", "", "f"), ("cámara", "", "f")),
]


def _table(rows: Sequence[tuple[str, str, str, str]]) -> Slot:
    return Slot(lambda rng: rng.randrange(len(rows)), lambda row, lang, _: rows[row][LANGUAGES.index(lang)])


def _nouns(nouns: Sequence[Noun]) -> Slot:
    return Slot(lambda rng: rng.randrange(len(nouns)), lambda row, lang, form: nouns[row].form(lang, form))


def _count(low: int, high: int) -> Slot:
    return Slot(lambda rng: rng.randint(low, high), lambda n, lang, form: number(n, lang, form))


def _any_number(rng: random.Random) -> int:
    """Uniform numbers would nearly all have four digits: short ones would never be learnt."""
    return rng.randrange(*rng.choices([(0, 100), (100, 1000), (1000, 10000)], [3, 4, 5])[0])


def _clock(value: tuple[int, int], lang: str, form: str) -> str:
    """Spanish form "is": the verb, which agrees."""
    hour, minute = value
    if lang == "eng":
        return f"{number(hour, lang)} " + (
            ("oh " if minute < 10 else "") + number(minute, lang) if minute else "o'clock"
        )
    if lang == "fra":
        return f"{number(hour, lang, 'f')} heure{'s' * (hour > 1)}" + (f" {number(minute, lang)}" if minute else "")
    if lang == "deu":
        return f"{number(hour, lang, 'm')} Uhr" + (f" {number(minute, lang)}" if minute else "")
    article = "la" if hour == 1 else "las"
    verb = {"": "", "is": "es " if hour == 1 else "son "}[form]
    return f"{verb}{article} {number(hour, lang, 'f')}" + (f" y {number(minute, lang)}" if minute else " en punto")


def _date(value: tuple[int, int], lang: str, form: str) -> str:
    """German forms: "" der dritte Mai, "on" am dritten Mai, "for" den dritten Mai. English "on" adds the word."""
    day, month = value[0], MONTHS[value[1]][LANGUAGES.index(lang)]
    if lang == "eng":
        return f"{'on ' if form == 'on' else ''}the {ordinal(day, lang)} of {month}"
    if lang == "fra":
        return f"le {'premier' if day == 1 else number(day, lang)} {month}"
    if lang == "deu":
        article = {"": "der", "on": "am", "for": "den"}[form]
        return f"{article} {ordinal(day, lang, 'n' if form else '')} {month}"
    return f"el {number(day, lang)} de {month}"


def _day(rng: random.Random) -> tuple[int, int]:
    """Of the shorter months only the days that all of them have."""
    month = rng.randrange(12)
    return rng.randint(1, 31 if month in (0, 2, 4, 6, 7, 9, 11) else 28), month


def _price(value: tuple[int, int], lang: str, _: str) -> str:
    euros, cents = value
    one = euros == 1
    words = number(euros, lang, "m") + {"eng": " euro", "fra": " euro", "deu": " Euro", "spa": " euro"}[lang]
    words += "" if one or lang == "deu" else "s"
    if not cents:
        return words
    joint = {"eng": "and", "fra": "et", "deu": "und", "spa": "y"}[lang]
    coin = {"eng": "cents", "fra": "centimes", "deu": "Cent", "spa": "céntimos"}[lang]
    return f"{words} {joint} {number(cents, lang, 'm')} {coin}"


SLOTS = {
    "number": Slot(_any_number, lambda n, lang, _: number(n, lang)),
    "room": _count(1, 999),
    "count": _count(2, 20),
    "many": _count(2, 99),
    "km": _count(2, 999),
    "floor": Slot(lambda rng: rng.randint(2, 10), ordinal),
    "time": Slot(lambda rng: (rng.randint(1, 23), rng.choice([0, *range(60)])), _clock),
    "quarter": Slot(lambda rng: (rng.randint(1, 23), rng.randrange(0, 60, 5)), _clock),
    "date": Slot(_day, _date),
    "price": Slot(lambda rng: (rng.randint(1, 199), rng.choice([0, *range(0, 100, 5)])), _price),
    "city": _table(CITIES),
    "day": _table(DAYS),
    "tongue": _table(TONGUES),
    "extra": _table(EXTRAS),
    "place": _nouns(PLACES),
    "dish": _nouns(DISHES),
    "mine": _nouns(BELONGINGS),
}  # fmt: skip
