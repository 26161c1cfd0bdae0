"""Language codes: which ones a checkpoint has for a task, and the usual other spellings of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from seamless_engine.config import ModelConfig
from seamless_engine.errors import CheckpointError, UnknownLanguageError, UsageError
from seamless_engine.inputs.language_names import code_of_name
from seamless_engine.inputs.language_tags import CODE_OF, fold, read_tag, script_of
from seamless_engine.request import SPEECH_IN, SPEECH_OUT, TASKS

# First entry of "multispkr" for each language in the original project's public card vocoder_v2.yaml.
_FIRST_SPEAKERS = """
arb 0 ben 1 cat 2 ces 3 cmn 4 cym 6 dan 7 deu 9 eng 10 est 11 fin 14 fra 15 hin 16 ind 17 ita 29 jpn 30 kor 31 mlt 32
nld 35 pes 38 pol 39 por 40 ron 41 rus 43 slk 44 spa 45 swe 46 swh 49 tel 52 tgl 53 tha 54 tur 61 ukr 62 urd 63 uzn 66
vie 69
""".split()
_SPEAKER_OF = {code: int(row) for code, row in zip(_FIRST_SPEAKERS[::2], _FIRST_SPEAKERS[1::2], strict=True)}


class Languages:
    """The language tables of one checkpoint. Raises CheckpointError if they do not fit its sizes.

    Every method takes a code in any of its spellings: "fra", "__fra__", "FRA", "fr", "fr-CA", "fre", "fra_Latn".
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
        return _find(code, self._spoken, f"{task} cannot speak", self._text)

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


def _find(code: str, known: Collection[str], problem: str, all_known: Collection[str] | None = None) -> str:
    """all_known: the codes that may be meant, also those that the task cannot take; `known` if not given."""
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
    """The member of `known` that `code` is a spelling of, in the script that it asks for. pt-BR is por."""
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
    """Members of `known` that are this language, in any script."""
    for spelling in (language, CODE_OF.get(language)):
        names = sorted(name for name in known if fold(name).partition("_")[0] == spelling)
        if names:
            return names
    return []


def _nearest(code: str, known: Collection[str]) -> str | None:
    """The one language that `code`, a name in English or a misspelt code, must have meant; None where it is open."""
    named = code_of_name(code)
    if named is not None:  # even if the checkpoint lacks it: no other language is meant
        return _lookup(named, known)
    first, *rest = re.split(r"[\W_]+", fold(code))
    if rest:
        return _lookup(first, known)
    if len(first) != 3:
        return None
    alike = {name for name in known if first[:2] == name[:2].casefold() or sorted(first) == sorted(fold(name))}
    alike |= {found} if (found := _lookup(first[:2], known)) else set()
    return alike.pop() if len(alike) == 1 else None
