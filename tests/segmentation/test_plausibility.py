"""transcript_warnings: no alarm for what is said, at any speed of the held-out data, and one for planted faults."""

from __future__ import annotations

import functools
import json

import pytest

from demo.train.words import LANGUAGES
from seamless_engine.segmentation.plausibility import count_letters, transcript_warnings
from support.long_audio import Phrase, long_file
from support.snippets import ROOT

TOO_SHORT, REPEATS = "characters for", "repeats itself"
ITEMS = [json.loads(text) for text in (ROOT / "demo" / "heldout.jsonl").read_text(encoding="utf-8").splitlines()]
# What is said in ten seconds, slowly, in scripts of other lengths.
SPOKEN = {
    "eng": "It was a bright cold day in April, and the clocks were striking thirteen.",
    "cmn": "四月间，天气寒冷晴朗，钟敲了十三下。温斯顿快步走进了大门。",
    "jpn": "四月の晴れた寒い日で、時計がどれも十三時を打っていた。",
    "kor": "사월의 맑고 쌀쌀한 날이었다. 시계들이 열세 번을 치고 있었다.",
    "arb": "كان يوما باردا مشرقا من أيام أبريل وكانت الساعات تدق الثالثة عشرة",
    "hin": "अप्रैल का एक चमकीला ठंडा दिन था और घड़ियाँ तेरह बजा रही थीं",
    "tha": "เป็นวันที่อากาศหนาวและแจ่มใสในเดือนเมษายน นาฬิกากำลังตีบอกเวลาสิบสามนาฬิกา",
    "digits": "0 4 9 1 7 6 5 5 2 3 1 8",
}


@functools.cache
def phrases_of(lang: str) -> list[Phrase]:
    return long_file(150.0, lang).phrases


@pytest.mark.parametrize("lang", LANGUAGES)
def test_no_warning_for_spoken_held_out_sentences(lang: str):
    for phrase in phrases_of(lang):
        assert transcript_warnings(phrase.text, phrase.end - phrase.start) == []


def test_no_held_out_text_repeats_itself():
    for item in ITEMS:
        assert transcript_warnings(item["text"], 1.0) == transcript_warnings(item["translation"], 1.0) == []
    assert max(count_letters(item["text"]) for item in ITEMS) > 60


@pytest.mark.parametrize("lang", SPOKEN)
def test_no_warning_for_slow_speech_in_any_script(lang: str):
    assert transcript_warnings(SPOKEN[lang], 10.0) == []


@pytest.mark.parametrize("lang", SPOKEN)
def test_warning_where_most_of_the_text_is_missing(lang: str):
    text = SPOKEN[lang]
    (warning,) = transcript_warnings(text[: len(text) // 8], 10.0)
    assert TOO_SHORT in warning and "10.0 s" in warning


@pytest.mark.parametrize("text", ["", " …", "yes"])
def test_warning_for_seconds_of_speech_without_words(text: str):
    (warning,) = transcript_warnings(text, 6.0)
    assert f"only {len(text)} characters" in warning
    assert transcript_warnings(text, 1.9) == []


@pytest.mark.parametrize("lang", LANGUAGES)
def test_warning_for_the_shortest_of_six_sentences_alone(lang: str):
    """A model that ends the text of a clip after one of its sentences."""
    phrases = phrases_of(lang)
    for first in range(0, len(phrases) - 5, 6):
        six = phrases[first : first + 6]
        shortest = min(six, key=lambda one: count_letters(one.text))
        (warning,) = transcript_warnings(shortest.text, sum(one.end - one.start for one in six))
        assert TOO_SHORT in warning


@pytest.mark.parametrize(
    "text",
    [
        "thank you " * 10,
        "是的，" * 20,
        "a " * 100,
        "the train to Paris and the train to Rome and " * 3,
        "I went home. " + "And then I went to the shop. " * 6,
        "धन्यवाद " * 15,
    ],
)
def test_warning_for_a_text_that_repeats_itself(text: str):
    (warning,) = transcript_warnings(text, 8.0)
    assert REPEATS in warning


@pytest.mark.parametrize(
    "text", ["no no no no no no", "nine nine nine nine nine nine", "はいはいはい", "row, row your boat"]
)
def test_no_warning_for_a_word_said_several_times(text: str):
    assert transcript_warnings(text, 3.0) == []
