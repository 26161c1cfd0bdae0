"""Language codes of BCP 47, FLORES, FLEURS and ISO 639 → a language and, if the code names one, a script."""

from __future__ import annotations

import re
from typing import NamedTuple

# By the script that the published checkpoint writes (as FLORES-200): the code of a language, then its ISO 639-1 and
# 639-2 codes, and country codes that are often used for them.
_LANGUAGES = {
    "Arab": "arb ar ara | ary | arz | ckb | pbt ps pus | pes fa fas per | snd sd | urd ur",
    "Armn": "hye hy arm",
    "Beng": "asm as | ben bn | mni",
    "Cyrl": "bel be | bul bg | kaz kk | khk mn mon | kir ky | mkd mk mac | rus ru | srp sr | tgk tg | ukr uk ua",
    "Deva": "hin hi | mai | mar mr | npi ne nep",
    "Ethi": "amh am",
    "Geor": "kat ka geo",
    "Grek": "ell el gre gr",
    "Gujr": "guj gu",
    "Guru": "pan pa",
    "Hans": "cmn zh zho chi cn",
    "Hant": "yue",
    "Hebr": "heb he iw",
    "Jpan": "jpn ja jp",
    "Khmr": "khm km",
    "Knda": "kan kn",
    "Kore": "kor ko",
    "Laoo": "lao lo",
    "Latn": """
        afr af | azj az aze | bos bs | cat ca | ceb | ces cs cze cz | cym cy wel | dan da dk | deu de ger | eng en
        est et ekk | eus eu baq | fin fi | fra fr fre | fuv ff ful | gaz om orm | gle ga | glg gl | hrv hr | hun hu
        ibo ig | ind id in | isl is ice | ita it | jav jv jw | lit lt | lug lg | luo | lvs lv lav | mlt mt
        nld nl dut | nno nn | nob nb no nor | nya ny | pol pl | por pt | ron ro rum | slk sk slo | slv sl | sna sn
        som so | spa es | swe sv | swh sw swa | tgl tl fil | tur tr | uzn uz uzb | vie vi vn | yor yo
        zlm ms msa may zsm | zul zu""",
    "Mlym": "mal ml",
    "Mymr": "mya my bur",
    "Olck": "sat",
    "Orya": "ory or ori",
    "Taml": "tam ta",
    "Telu": "tel te",
    "Thai": "tha th",
}
# Regions that write a language in another script, by CLDR's likely subtags. sd_in, there in Deva, is left out: FLEURS
# uses it for Sindhi in Arab.
_SCRIPT_BY_REGION = {
    "azj": {"Arab": "iq ir", "Cyrl": "ru"},
    "cmn": {"Hant": "au bn gb gf hk id mo pa pf ph sr th tw us vn"},
    "kaz": {"Arab": "af cn ir mn"},
    "khk": {"Mong": "cn"},
    "kir": {"Arab": "cn", "Latn": "tr"},
    "pan": {"Arab": "pk"},
    "srp": {"Latn": "me ro tr"},
    "tgk": {"Arab": "pk"},
    "uzn": {"Arab": "af", "Cyrl": "cn"},
    "yue": {"Hans": "cn"},
    "zlm": {"Arab": "cc"},
}
_SAME_SCRIPT = {"Aran": "Arab", "Hang": "Kore"}
# The extended languages of BCP 47: zh-yue is yue.
_EXTENDED = re.compile(r"(?:ar_(?=ar[byz])|lv_(?=lvs)|ms_(?=z[ls]m)|sw_(?=swh)|uz_(?=uzn)|zh_(?=cmn|yue))")
# Variants that stand for another alphabet, which no checkpoint writes.
_TRANSCRIPTIONS = set(
    "alalc97 baku1926 fonipa fonkirsh fonnapa fonupa fonxsamp hepburn heploc jyutping pinyin tongyong wadegile".split()
)
_TAG = re.compile(
    r"(?P<language>[a-z]{2,3})(?:_(?P<script>[a-z]{4}))?(?:_(?P<region>[a-z]{2}|\d{3}))?"
    r"(?P<variants>(?:_(?:[a-z\d]{5,8}|\d[a-z\d]{3}))*)(?:_[a-z\d]_.+)?"
)

CODE_OF: dict[str, str] = {}  # spelling → the published checkpoint's code
_SCRIPT_OF: dict[str, str] = {}  # code → script
_ISO_639_1: dict[str, str] = {}  # code → code
for _script, _listed in _LANGUAGES.items():
    for _code, *_spellings in map(str.split, re.split(r"[|\n]", _listed.strip())):
        CODE_OF |= dict.fromkeys((_code, *_spellings), _code)
        _SCRIPT_OF[_code] = _script
        if _spellings and len(_spellings[0]) == 2:
            _ISO_639_1[_code] = _spellings[0]


class Tag(NamedTuple):
    """script: the one that the code names, or that its region implies; None if the checkpoint may choose."""

    language: str
    script: str | None


def fold(code: str) -> str:
    """`fra` for `__fra__` and `FRA`, `fr_ca` for `fr-CA`."""
    return code.replace("__", "").strip().replace("-", "_").casefold()


def read_tag(code: str) -> Tag | None:
    """The language and script of a code. None if the code is not a tag, or stands for a transcription."""
    found = _TAG.fullmatch(_EXTENDED.sub("", fold(code), count=1))
    if found is None or _TRANSCRIPTIONS & set(found["variants"].split("_")):
        return None
    script = found["script"] and found["script"].title()
    if script is None and found["region"]:
        by_region = _SCRIPT_BY_REGION.get(CODE_OF.get(found["language"], ""), {})
        script = next((name for name, regions in by_region.items() if found["region"] in regions.split()), None)
    return Tag(found["language"], _SAME_SCRIPT.get(script, script) if script else None)


def script_of(name: str) -> str | None:
    """The script of a checkpoint's language: the one in its code, as in cmn_Hant, else the published checkpoint's."""
    language, _, script = fold(name).partition("_")
    return script.title() if script else _SCRIPT_OF.get(CODE_OF.get(language, language))


def iso_639_1(name: str) -> str:
    """The code of two letters of a checkpoint's language, "en" for "eng"; its own code if ISO 639-1 has none."""
    language = fold(name).partition("_")[0]
    return _ISO_639_1.get(CODE_OF.get(language, language), language)
