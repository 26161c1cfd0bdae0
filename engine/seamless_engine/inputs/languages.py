"""The languages of a checkpoint: the codes that a task may use, in any of their usual spellings."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from seamless_engine.config import ModelConfig
from seamless_engine.errors import CheckpointError, UnknownLanguageError, UsageError
from seamless_engine.inputs.language_names import code_of_name
from seamless_engine.inputs.language_tags import CODE_OF, fold, read_tag, script_of
from seamless_engine.request import SPEECH_OUT, TASKS

# First entry of "multispkr" for each language in the original project's public card vocoder_v2.yaml.
_FIRST_SPEAKERS = """
arb 0 ben 1 cat 2 ces 3 cmn 4 cym 6 dan 7 deu 9 eng 10 est 11 fin 14 fra 15 hin 16 ind 17 ita 29 jpn 30 kor 31 mlt 32
nld 35 pes 38 pol 39 por 40 ron 41 rus 43 slk 44 spa 45 swe 46 swh 49 tel 52 tgl 53 tha 54 tur 61 ukr 62 urd 63 uzn 66
vie 69
""".split()
_SPEAKER_OF = {code: int(index) for code, index in zip(_FIRST_SPEAKERS[::2], _FIRST_SPEAKERS[1::2], strict=True)}


@dataclass(frozen=True)
class TargetLanguage:
    """A language that a task produces, with its ids in the checkpoint.

    code: the checkpoint's own spelling.
    token_id: the second token of the decoder's prompt.
    vocoder_id: index in the vocoder's language table; None for a task that produces text.
    speaker_id: the voice that the original project gives the language; 0 if this checkpoint does not have it.
    """

    code: str
    token_id: int
    vocoder_id: int | None
    speaker_id: int


class Languages:
    """The language tables of one checkpoint. Raises CheckpointError if an id does not fit the checkpoint's sizes.

    A language may be given in any of its spellings: "fra", "__fra__", "FRA", "fr", "fr-CA", "fre", "fra_Latn".
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
        if task.lower() not in TASKS:
            raise UsageError(f"unknown task {task!r}: use one of {', '.join(TASKS)}")
        return sorted(self._spoken if task.lower() in SPEECH_OUT else self._text)

    def target(self, task: str, code: str) -> TargetLanguage:
        """The language that `task` is to produce. Raises UnknownLanguageError."""
        own = self._find_target(task, code)
        speaker = _SPEAKER_OF.get(own, 0)
        return TargetLanguage(
            code=own,
            token_id=self._text[own],
            vocoder_id=self._voices[own] if task in SPEECH_OUT else None,
            speaker_id=speaker if speaker < self._num_speakers else 0,
        )

    def source_id(self, code: str) -> int:
        """The first token of a text in this language, for the text encoder. Raises UnknownLanguageError."""
        return self._text[_find(code, self._text, "the text encoder does not know")]

    def _find_target(self, task: str, code: str) -> str:
        if task not in SPEECH_OUT:
            return _find(code, self._text, f"{task} cannot write")
        written = _lookup(code, self._text)
        if written is not None and written not in self._spoken:
            lacks = "its vocoder has no voice" if written in self._units else "its unit decoder was not made"
            raise UnknownLanguageError(
                f"{task} cannot speak {code!r}: this checkpoint can write {written}, but {lacks} for it. "
                f"Use a task that produces text, or one of: {_listed(self._spoken)}"
            )
        return _find(code, self._spoken, f"{task} cannot speak", self._text)


def _check_ids(name: str, ids: Mapping[str, int], size_name: str, size: int) -> None:
    for code, index in ids.items():
        if not 0 <= index < size:
            raise CheckpointError(f"generation_config.json: {name} gives {code} {index}, outside {size_name} {size}")


def _listed(codes: Iterable[str]) -> str:
    return ", ".join(sorted(codes)) or "none"


def _find(code: str, known: Collection[str], problem: str, all_known: Collection[str] | None = None) -> str:
    """The member of `known` that `code` stands for.

    problem: how the message of the UnknownLanguageError begins.
    all_known: codes to search for a suggestion. It may have codes that the task cannot use, which are not suggested;
        by default it is `known`.
    """
    found = _lookup(code, known)
    if found is not None:
        return found
    tag = read_tag(code)
    names = _names(tag.language, known) if tag else []
    if tag and tag.script and names:
        scripts = " and ".join(f"{script_of(name) or 'another script'}, {name!r}" for name in names)
        raise UnknownLanguageError(
            f"{problem} {code!r} in the script {tag.script}: this checkpoint has the language in {scripts}"
        )
    nearest = _nearest(code, all_known or known)
    hint = f" Did you mean {nearest!r}?" if nearest in known else ""
    raise UnknownLanguageError(f"{problem} {code!r}.{hint} This checkpoint has: {_listed(known)}")


def _lookup(code: str, known: Collection[str]) -> str | None:
    """The member of `known` that `code` is a spelling of, in the script that it asks for: por for pt-BR."""
    if code in known:
        return code
    own = {fold(name): name for name in known}
    if fold(code) in own:
        return own[fold(code)]
    tag = read_tag(code)
    if tag is None:
        return None
    if tag.script is None:
        return own.get(tag.language) or own.get(CODE_OF.get(tag.language, ""))
    return next((name for name in _names(tag.language, known) if script_of(name) == tag.script), None)


def _names(language: str, known: Collection[str]) -> list[str]:
    """The members of `known` in this language, one for each script."""
    for spelling in (language, CODE_OF.get(language)):
        names = sorted(name for name in known if fold(name).partition("_")[0] == spelling)
        if names:
            return names
    return []


def _nearest(code: str, known: Collection[str]) -> str | None:
    """The only language that `code`, an English name or a misspelt code, can mean; None if several are possible."""
    named = code_of_name(code)
    if named is not None:  # if the checkpoint lacks it, a similar code would be another language
        return _lookup(named, known)
    first, *rest = re.split(r"[\W_]+", fold(code))
    if rest:
        return _lookup(first, known)
    if len(first) != 3:
        return None
    alike = {name for name in known if first[:2] == name[:2].casefold() or sorted(first) == sorted(fold(name))}
    alike |= {found} if (found := _lookup(first[:2], known)) else set()
    return alike.pop() if len(alike) == 1 else None
