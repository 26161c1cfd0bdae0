"""Whether a transcript can be one of its speech. Models that meet a clip unlike those of their training end the text
early, or write the same again and again."""

from __future__ import annotations

import unicodedata
import zlib

# In 17 languages people speak 4.3 to 9.1 syllables a second (Coupé et al. 2019, doi 10.1126/sciadv.aaw2594), which are
# 10 letters and more in most alphabets. A third of that is no speaker's rate.
_SLOWEST = 3.0  # letters a second
_SHORT = 2.0  # seconds of speech: below this a single word may be all that was said
_SYLLABLE = 3  # letters that a character counts for that is a syllable or more: Han, kana, Hangul, and a digit
_REPEATED = 2.4  # Whisper's limit for the length of a text over that of its compressed form
_LONG = 60  # letters: below this a text may repeat itself, as the digits of a number do


def transcript_warnings(text: str, seconds: float) -> list[str]:
    """What is wrong with a transcript of so many seconds of speech, a sentence each; empty if it is plausible.

    seconds: of speech alone, without the pauses around it.
    """
    letters = count_letters(text)
    warnings = []
    if seconds >= _SHORT and letters < _SLOWEST * seconds:
        warnings.append(
            f"the text has only {len(text)} characters for {seconds:.1f} s of speech: some of it may be missing"
        )
    if letters >= _LONG and repetition(text) > _REPEATED:
        warnings.append("the text repeats itself: what it says once may be all that was recognised")
    return warnings


def count_letters(text: str) -> int:
    """Letters, marks and digits of a text; a character that is a syllable counts as three."""
    return sum(_letters(character) for character in text)


def _letters(character: str) -> int:
    kind = unicodedata.category(character)[0]
    if kind == "N" or (kind == "L" and unicodedata.east_asian_width(character) in "WF"):
        return _SYLLABLE
    return int(kind in "LM")


def repetition(text: str) -> float:
    """Length over compressed length of a text that is not empty. A character is one byte: all alphabets are alike."""
    alphabet = {character: number % 256 for number, character in enumerate(dict.fromkeys(text))}
    data = bytes(alphabet[character] for character in text)
    return len(data) / len(zlib.compress(data, 9, -zlib.MAX_WBITS))
