"""The published checkpoint's languages by their English names, for hints in messages; a name is not accepted as a
code."""

from __future__ import annotations

import re

_NAMES = """
afr Afrikaans | amh Amharic | arb Arabic | ary Moroccan Arabic | arz Egyptian Arabic | asm Assamese
azj Azerbaijani, Azeri | bel Belarusian | ben Bengali, Bangla | bos Bosnian | bul Bulgarian | cat Catalan, Valencian
ceb Cebuano | ces Czech | ckb Kurdish, Sorani | cmn Chinese, Mandarin | cmn_Hant Traditional Chinese | cym Welsh
dan Danish | deu German | ell Greek | eng English | est Estonian | eus Basque | fin Finnish | fra French
fuv Fulfulde, Fulah, Fula | gaz Oromo | gle Irish | glg Galician | guj Gujarati | heb Hebrew | hin Hindi | hrv Croatian
hun Hungarian | hye Armenian | ibo Igbo | ind Indonesian | isl Icelandic | ita Italian | jav Javanese | jpn Japanese
kan Kannada | kat Georgian | kaz Kazakh | khk Mongolian | khm Khmer, Cambodian | kir Kyrgyz, Kirghiz | kor Korean
lao Lao, Laotian | lit Lithuanian | lug Ganda, Luganda | luo Luo, Dholuo | lvs Latvian | mai Maithili | mal Malayalam
mar Marathi | mkd Macedonian | mlt Maltese | mni Manipuri, Meitei | mya Burmese | nld Dutch, Flemish
nno Nynorsk, Norwegian Nynorsk | nob Norwegian, Bokmål, Norwegian Bokmål | npi Nepali | nya Nyanja, Chichewa, Chewa
ory Odia, Oriya | pan Punjabi, Panjabi | pbt Pashto, Pushto | pes Persian, Farsi | pol Polish | por Portuguese
ron Romanian, Moldovan | rus Russian | sat Santali | slk Slovak | slv Slovenian, Slovene | sna Shona | snd Sindhi
som Somali | spa Spanish, Castilian | srp Serbian | swe Swedish | swh Swahili | tam Tamil | tel Telugu | tgk Tajik
tgl Tagalog, Filipino | tha Thai | tur Turkish | ukr Ukrainian | urd Urdu | uzn Uzbek | vie Vietnamese | yor Yoruba
yue Cantonese | zlm Malay | zul Zulu
"""


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[^\W\d_]+", text.casefold()))


CODE_OF_NAME: dict[frozenset[str], str] = {}
for _entry in re.split(r"[|\n]", _NAMES.strip()):
    _code, _names = _entry.split(maxsplit=1)
    CODE_OF_NAME |= {_words(_name): _code for _name in _names.split(",")}


def code_of_name(text: str) -> str | None:
    """The published checkpoint's code of the language that `text` names. The longest name counts: "Arabic" is arb,
    "Arabic (Egyptian)" is arz. None if the text names no language, or several."""
    words = _words(text)
    named = {name: code for name, code in CODE_OF_NAME.items() if name <= words}
    longest = {code for name, code in named.items() if len(name) == max(map(len, named))}
    return longest.pop() if len(longest) == 1 else None
