"""Words that bend: numbers before a noun, nouns behind an article, in English, French, German and Spanish.

A number is spelt by num2words; the agreement it leaves out is here: une heure, einundzwanzig Uhr and ein Uhr, veintiún
euros and veintiuna horas.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from num2words import num2words

LANGUAGES = ("eng", "fra", "deu", "spa")
_CODES = {"eng": "en", "fra": "fr", "deu": "de", "spa": "es"}
_SPANISH_ORDINALS = "primer segundo tercer cuarto quinto sexto séptimo octavo noveno décimo".split()


@cache
def number(n: int, lang: str, gender: str = "") -> str:
    """`n` in words, as one counts; with a gender, "m" or "f", as it stands before a noun."""
    words = num2words(n, lang=_CODES[lang]).replace(",", "")
    if not gender:
        return words
    if lang == "fra" and gender == "f" and words.endswith("un"):
        return words + "e"
    if lang == "deu" and words.endswith("eins"):
        return words[:-1] + ("e" if gender == "f" else "")
    if lang == "spa" and words.endswith("uno"):
        if gender == "f":
            return words[:-1] + "a"
        return words.removesuffix("uno") + ("ún" if words.endswith("veintiuno") else "un")
    return words


@cache
def ordinal(n: int, lang: str, ending: str = "") -> str:
    """`n` up to 31 as an ordinal; Spanish up to 10, before a noun. German takes an ending: dritte, dritten."""
    if lang == "spa":
        return _SPANISH_ORDINALS[n - 1]
    return num2words(n, lang=_CODES[lang], to="ordinal") + ending


class Noun(NamedTuple):
    """One thing in four languages: singular, plural after a number, gender ("m" "f", German also "n")."""

    eng: tuple[str, str]
    fra: tuple[str, str, str]
    deu: tuple[str, str, str]
    spa: tuple[str, str, str]

    def form(self, lang: str, form: str) -> str:
        """form: "the" "a" "my" "to" "at" with the article of the language, "many" the plural.

        German "a" and "my" are accusative, "my_is" is nominative; "to" and "at" are datives.
        """
        singular, plural = getattr(self, lang)[:2]
        if form == "many":
            return plural
        gender = "" if lang == "eng" else getattr(self, lang)[2]
        if lang == "eng":
            article = _ENGLISH.get(form) or ("an" if singular[0] in "aeiou" else "a")
        elif lang == "fra":
            vowel = singular[0] in "aeéèêiohu"
            if vowel and form in ("the", "to", "at"):
                return ("l'" if form == "the" else "à l'") + singular
            article = _FRENCH[form][0 if gender == "m" or (vowel and form.startswith("my")) else 1]
        elif lang == "deu":
            article = _GERMAN[form]["mfn".index(gender)]
        else:
            article = _SPANISH[form]["mf".index(gender)]
        return f"{article} {singular}"


_ENGLISH = {"the": "the", "my": "my", "my_is": "my", "to": "to the", "at": "at the"}
_FRENCH = {
    "the": ("le", "la"),
    "a": ("un", "une"),
    "my": ("mon", "ma"),
    "my_is": ("mon", "ma"),
    "to": ("au", "à la"),
    "at": ("au", "à la"),
}
_GERMAN = {
    "the": ("der", "die", "das"),
    "a": ("einen", "eine", "ein"),
    "my": ("meinen", "meine", "mein"),
    "my_is": ("mein", "meine", "mein"),
    "to": ("zum", "zur", "zum"),
    "at": ("am", "an der", "am"),
}
_SPANISH = {
    "the": ("el", "la"),
    "a": ("un", "una"),
    "my": ("mi", "mi"),
    "my_is": ("mi", "mi"),
    "to": ("al", "a la"),
    "at": ("en el", "en la"),
}
