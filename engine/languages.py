"""Language codes: which ones a checkpoint has for a task, and the usual other spellings of them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping

from seamless_engine.config import ModelConfig
from seamless_engine.errors import CheckpointError, UnknownLanguageError, UsageError
from seamless_engine.request import SPEECH_IN, SPEECH_OUT, TASKS

# The checkpoint's code, then ISO 639-1 and 639-2 codes, country codes that are taken for them, and other spellings.
_OTHER_SPELLINGS = """
afr af | amh am | arb ar ara | ary | arz | asm as | azj az aze | bel be | ben bn | bos bs | bul bg | cat ca | ceb
ces cs cze cz | ckb | cmn zh zho chi zh_hans zho_hans cmn_hans cn | cmn_Hant zh_hant zho_hant zh_tw zh_hk zh_mo
cym cy wel | dan da dk | deu de ger | ell el gre gr | eng en | est et ekk | eus eu baq | fin fi | fra fr fre
fuv ff ful | gaz om orm | gle ga | glg gl | guj gu | heb he iw | hin hi | hrv hr | hun hu | hye hy arm | ibo ig | ind id
isl is ice | ita it | jav jv jw | jpn ja jp | kan kn | kat ka geo | kaz kk | khk mn mon | khm km | kir ky | kor ko
lao lo | lit lt | lug lg | luo | lvs lv lav | mai | mal ml | mar mr | mkd mk mac | mlt mt | mni | mya my bur
nld nl dut | nno nn | nob nb no nor | npi ne nep | nya ny | ory or ori | pan pa | pbt ps pus | pes fa fas per | pol pl
por pt | ron ro rum | rus ru | sat | slk sk slo | slv sl | sna sn | snd sd | som so | spa es | srp sr | swe sv
swh sw swa | tam ta | tel te | tgk tg | tgl tl fil | tha th | tur tr | ukr uk ua | urd ur | uzn uz uzb | vie vi vn
yor yo | yue | zlm ms msa may zsm | zul zu
"""
# First entry of "multispkr" for each language in the original project's public card vocoder_v2.yaml.
_FIRST_SPEAKERS = """
arb 0 ben 1 cat 2 ces 3 cmn 4 cym 6 dan 7 deu 9 eng 10 est 11 fin 14 fra 15 hin 16 ind 17 ita 29 jpn 30 kor 31 mlt 32
nld 35 pes 38 pol 39 por 40 ron 41 rus 43 slk 44 spa 45 swe 46 swh 49 tel 52 tgl 53 tha 54 tur 61 ukr 62 urd 63 uzn 66
vie 69
""".split()
_SPEAKER_OF = {code: int(row) for code, row in zip(_FIRST_SPEAKERS[::2], _FIRST_SPEAKERS[1::2], strict=True)}
_CODE_OF = {
    spelling: code
    for code, *spellings in map(str.split, re.split(r"[|\n]", _OTHER_SPELLINGS.strip()))
    for spelling in spellings
}


class Languages:
    """The language tables of one checkpoint. Raises CheckpointError if they do not fit its sizes.

    Every method takes a code in any of its spellings: "fra", "__fra__", "FRA", "fr", "fr-CA", "fre".
    """

    def __init__(self, config: ModelConfig) -> None:
        _check_ids("text_decoder_lang_to_code_id", config.text_lang_ids, "vocab_size", config.vocab_size)
        _check_ids("vocoder_lang_code_to_id", config.vocoder_lang_ids, "vocoder_num_langs", config.vocoder_num_langs)
        self._text = config.text_lang_ids
        self._units = config.t2u_langs
        self._voices = config.vocoder_lang_ids
        self._num_speakers = config.vocoder_num_spkrs
        self._spoken = frozenset(self._text) & self._units & frozenset(self._voices)

    def codes(self, task: str) -> list[str]:
        """Languages that `task` can produce, in alphabetical order."""
        return sorted(self._spoken if _checked(task) in SPEECH_OUT else self._text)

    def source_codes(self, task: str) -> list[str]:
        """Languages of the text that `task` reads; none for speech, whose language is never told to the model."""
        return [] if _checked(task) in SPEECH_IN else sorted(self._text)

    def resolve(self, task: str, code: str) -> str:
        """The checkpoint's own code of a language that `task` is to produce. Raises UnknownLanguageError."""
        task = _checked(task)
        if task not in SPEECH_OUT:
            return _find(code, self._text, f"{task} cannot write")
        written = _lookup(code, self._text)
        if written is not None and written not in self._spoken:
            lacks = "its vocoder has no voice" if written in self._units else "its unit decoder was not made"
            raise UnknownLanguageError(
                f"{task} cannot speak {code!r}: this checkpoint can write {written}, but {lacks} for it. "
                f"Use a task that produces text, or one of: {_listed(self._spoken)}"
            )
        return _find(code, self._spoken, f"{task} cannot speak")

    def target_id(self, task: str, code: str) -> int:
        """Token that asks the text decoder for this language."""
        return self._text[self.resolve(task, code)]

    def source_id(self, code: str) -> int:
        """Token that tells the text encoder that a text is in this language."""
        return self._text[_find(code, self._text, "the text encoder does not know")]

    def speaker_id(self, code: str) -> int:
        """The voice that the original project gives a language; 0 where this checkpoint does not have it."""
        speaker = _SPEAKER_OF.get(code, 0)
        return speaker if speaker < self._num_speakers else 0

    def voice_id(self, code: str) -> int:
        """Row of the vocoder's language table."""
        return self._voices[self.resolve("t2st", code)]


def _checked(task: str) -> str:
    if task.lower() not in TASKS:
        raise UsageError(f"unknown task {task!r}: use one of {', '.join(TASKS)}")
    return task.lower()


def _check_ids(name: str, ids: Mapping[str, int], size_name: str, size: int) -> None:
    for code, index in ids.items():
        if not 0 <= index < size:
            raise CheckpointError(f"generation_config.json: {name} gives {code} {index}, outside {size_name} {size}")


def _listed(codes: Iterable[str]) -> str:
    return ", ".join(sorted(codes)) or "none"


def _find(code: str, known: Collection[str], problem: str) -> str:
    found = _lookup(code, known)
    if found is None:
        nearest = _nearest(code, known)
        hint = f" Did you mean {nearest!r}?" if nearest else ""
        raise UnknownLanguageError(f"{problem} {code!r}.{hint} This checkpoint has: {_listed(known)}")
    return found


def _lookup(code: str, known: Collection[str]) -> str | None:
    """The member of `known` that `code` is a spelling of. A region is dropped: pt-BR is por."""
    folded = _fold(code)
    own = {_fold(name): name for name in known}
    for spelling in (folded, re.sub(r"^([a-z]{2,3})_[a-z]{2}$", r"\1", folded)):
        if spelling in own:
            return own[spelling]
        if spelling in _CODE_OF:
            return _CODE_OF[spelling] if _CODE_OF[spelling] in known else None
    return None


def _nearest(code: str, known: Collection[str]) -> str | None:
    """A language that `code`, perhaps a name in English, may have meant."""
    folded = _fold(code)
    for length in (3, 2):
        if len(folded) > length and (found := _lookup(folded[:length], known)):
            return found
    close = difflib.get_close_matches(folded, [_fold(name) for name in known], n=1, cutoff=0.5)
    return _lookup(close[0], known) if close else None


def _fold(code: str) -> str:
    return code.replace("__", "").strip().replace("-", "_").casefold()
