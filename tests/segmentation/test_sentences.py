"""split_text: sentences that fit, in every script, and nothing of the text is lost."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

from seamless_engine.errors import InputError
from seamless_engine.inputs.language_tags import iso_639_1
from seamless_engine.segmentation.sentences import Sentence, split_text
from support.languages import CODES

# Three sentences or more in each script of the published checkpoint.
TEXTS = {
    "eng": ["Dr. Smith arrived at 3.30 p.m. on Monday.", '"Where is he?" she asked.', "Nobody knew!"],
    "deu": ["Am 3. Mai kam Prof. Dr. Müller.", "Er blieb z. B. drei Tage.", "Warum?"],
    "rus": ["Он приехал в 5 часов.", "Почему?", "Никто не знает!"],
    "ell": ["Ο καιρός είναι καλός.", "Πάμε στο πάρκο;", "Ναι."],
    "hye": ["Այսօր եղանակը լավ է։", "Գնանք այգի։", "Ի՞նչ ես կարծում։"],
    "kat": ["დღეს კარგი ამინდია.", "წავიდეთ პარკში!", "რას ფიქრობ?"],
    "heb": ["מזג האוויר יפה היום.", "נלך לפארק?", "כן!"],
    "arb": ["الطقس جميل اليوم.", "هل نذهب إلى الحديقة؟", "نعم، بالطبع."],
    "urd": ["آج موسم اچھا ہے۔", "کیا ہم پارک چلیں؟", "ہاں۔"],
    "amh": ["ዛሬ አየሩ ጥሩ ነው።", "ወደ ፓርክ እንሂድ።", "ምን ይመስልሃል?"],
    "hin": ["आज मौसम बहुत अच्छा है।", "चलो पार्क चलते हैं।", "आप क्या सोचते हैं?"],
    "ben": ["আজ আবহাওয়া ভালো।", "চলো পার্কে যাই।", "তুমি কী ভাবছ?"],
    "pan": ["ਅੱਜ ਮੌਸਮ ਚੰਗਾ ਹੈ।", "ਚਲੋ ਪਾਰਕ ਚੱਲੀਏ।", "ਕੀ ਸੋਚਦੇ ਹੋ?"],
    "guj": ["આજે હવામાન સારું છે.", "ચાલો બગીચામાં જઈએ.", "શું વિચારો છો?"],
    "ory": ["ଆଜି ପାଗ ଭଲ ଅଛି।", "ଚାଲ ପାର୍କ ଯିବା।", "କଣ ଭାବୁଛ?"],
    "tam": ["இன்று வானிலை நன்றாக உள்ளது.", "பூங்காவிற்கு செல்வோம்.", "என்ன நினைக்கிறீர்கள்?"],
    "tel": ["ఈరోజు వాతావరణం బాగుంది.", "పార్కుకు వెళ్దాం.", "ఏమంటారు?"],
    "kan": ["ಇಂದು ಹವಾಮಾನ ಚೆನ್ನಾಗಿದೆ.", "ಉದ್ಯಾನಕ್ಕೆ ಹೋಗೋಣ.", "ಏನು ಹೇಳುತ್ತೀರಿ?"],
    "mal": ["ഇന്ന് കാലാവസ്ഥ നല്ലതാണ്.", "പാർക്കിൽ പോകാം.", "എന്ത് പറയുന്നു?"],
    "sat": ["ᱱᱚᱣᱟ ᱫᱚ ᱵᱷᱟᱜᱮ᱾", "ᱪᱟᱞᱟᱜ ᱢᱮ᱾", "ᱪᱮᱫ ᱠᱟᱱᱟ?"],
    "mya": ["ဒီနေ့ ရာသီဥတု ကောင်းတယ်။", "ပန်းခြံသွားရအောင်။", "ဘယ်လိုထင်လဲ။"],
    "khm": ["ថ្ងៃនេះអាកាសធាតុល្អ។", "តោះទៅសួន៕", "តើអ្នកគិតយ៉ាងណា?"],
    "lao": ["ມື້ນີ້ອາກາດດີ.", "ພວກເຮົາໄປສວນກັນເທາະ.", "ເຈົ້າຄິດແນວໃດ?"],
    "tha": ["วันนี้อากาศดีมาก!", "ไปสวนกันไหม?", "ไปสิ."],
    "kor": ["오늘 날씨가 좋다.", "공원에 가자!", "어때?"],
}
WITHOUT_SPACES = {
    "cmn": ["今天天气很好。", "我们去公园吧！", "你觉得怎么样？", "“好的。”"],
    "cmn_Hant": ["今天天氣很好。", "我們去公園吧！", "你覺得怎麼樣？"],
    "yue": ["今日天氣好好。", "我哋去公園啦！", "你覺得點呀？"],
    "jpn": ["今日はいい天気です。", "公園に行きましょう！", "どう思いますか？"],
}
LETTERS = "ab1éß日本한국กำक्षि👨\u200d👩🇫🇷e\u0301\u1100\u1161"
CHARACTERS = f"{LETTERS} \n\t.,;:!?…()\"'“”«»。，、！？「」।؟،។៕།\u2028\x85\u3000\0"
clusters = Split(Regex(r"\X"), "isolated")


@pytest.mark.parametrize(("lang", "sentences"), [*TEXTS.items(), *WITHOUT_SPACES.items()])
def test_split_text_finds_the_sentences_of_every_script(lang: str, sentences: list[str]):
    space = "" if lang in WITHOUT_SPACES else " "
    found = split_text(space.join(sentences), lang, len, 512)
    assert found == [Sentence(text, space) for text in sentences[:-1]] + [Sentence(sentences[-1], "")]


@pytest.mark.parametrize("lang", CODES)
def test_split_text_knows_a_full_stop_in_every_language(lang: str):
    stop = "։" if lang == "hye" else "."  # in Armenian "." is a colon
    sentences = [f"{words}{stop}" for words in ("Aaaa bbbb", "Cccc dddd", "Eeee")]
    assert [sentence.text for sentence in split_text(" ".join(sentences), lang, len, 512)] == sentences


def test_iso_639_1_is_of_the_language_whatever_the_script():
    assert [iso_639_1(code) for code in ("eng", "cmn", "cmn_Hant", "nob", "arz")] == ["en", "zh", "zh", "nb", "arz"]


def test_separators_keep_paragraphs():
    text = "  One. Two.\n\n\tThree,\r\nfour.  \n"
    assert split_text(text, "eng", len, 512) == [
        Sentence("  One.", " "),
        Sentence("Two.", "\n\n\t"),
        Sentence("Three,\r\nfour.", "  \n"),
    ]


@pytest.mark.parametrize("text", ["", " ", "\n\n \u3000"])
def test_text_without_words_is_one_sentence(text: str):
    assert split_text(text, "eng", len, 512) == [Sentence(text, "")]


@pytest.mark.parametrize(
    ("text", "limit", "pieces"),
    [
        ("one two three, four five six", 20, ["one two three,", "four five six"]),
        ("one two three four five six", 15, ["one two three", "four five six"]),
        ("(Here it is now. It was, too.)", 26, ["(Here it is now.", "It was, too.)"]),
        ("它很好，我们去公园吧", 8, ["它很好，", "我们去公园吧"]),
        ("it costs 1,000,000 euros", 18, ["it costs 1,000,000", "euros"]),
        ("👨\u200d👩👨\u200d👩👨\u200d👩", 5, ["👨\u200d👩"] * 3),
        ("abcdefgh", 3, ["abc", "def", "gh"]),
        ("abc", 0, ["a", "b", "c"]),
    ],
)
def test_long_sentence_is_cut_at_the_best_place_that_fits(text: str, limit: int, pieces: list[str]):
    assert [sentence.text for sentence in split_text(text, "eng", len, limit)] == pieces


anything = st.text(st.sampled_from(CHARACTERS), max_size=80) | st.text(max_size=40)


@given(anything, st.sampled_from(CODES), st.integers(1, 30))
@settings(max_examples=150, deadline=None)
def test_split_text_loses_nothing_and_fits(text: str, lang: str, limit: int):
    found = split_text(text, lang, len, limit)
    assert "".join(sentence.text + sentence.separator for sentence in found) == text
    for number, (piece, separator) in enumerate(found):
        assert separator.strip() == "" and piece.rstrip() == piece or not text.strip()
        assert len(piece.lstrip()) <= limit
        assert not number or (piece and piece.lstrip() == piece)


@given(st.text(st.sampled_from(LETTERS), min_size=1, max_size=40))
@settings(deadline=None)
def test_cut_leaves_characters_whole_that_fit(text: str):
    whole = [cluster for cluster, _ in clusters.pre_tokenize_str(text)]
    pieces = split_text(text, "eng", len, max(map(len, whole)))
    of_pieces = [cluster for piece, _ in pieces for cluster, _ in clusters.pre_tokenize_str(piece)]
    assert of_pieces == whole


def test_limit_holds_where_a_shorter_text_has_more_tokens():
    def tokens(text: str) -> int:
        return sum(1 if len(word) % 2 == 0 else len(word) for word in text.split())

    text = "aaaa bbb cccccc ddddd ee " * 40
    found = split_text(text, "eng", tokens, 9)
    assert all(tokens(sentence.text) <= 9 for sentence in found)
    assert "".join(sentence.text + sentence.separator for sentence in found) == text


@pytest.mark.parametrize("text", ["“" * 60_000, "x" * 60_000, "a,b. (“ " * 8_000, "\n" * 60_000 + "x"])
def test_time_grows_with_the_length_of_a_hostile_text(text: str):
    """sentencex takes 12 s for the first of them at once."""
    start = time.perf_counter()
    assert "".join(sentence.text + sentence.separator for sentence in split_text(text, "eng", len, 512)) == text
    assert time.perf_counter() - start < 10.0


def test_half_a_surrogate_pair_is_an_input_error():
    with pytest.raises(InputError, match="surrogate"):
        split_text("one \ud83d two", "eng", len, 512)
