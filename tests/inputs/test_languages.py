"""Languages: a code in any spelling gives a language of the checkpoint, or an error with a suggestion."""

from __future__ import annotations

import dataclasses

import pytest

from seamless_engine.errors import CheckpointError, UnknownLanguageError, UsageError
from seamless_engine.inputs.language_names import CODE_OF_NAME, code_of_name
from seamless_engine.inputs.languages import Languages
from support.languages import CODES, CONFIG, LARGE, VOICES

SMALL = Languages(dataclasses.replace(CONFIG, text_lang_ids={"eng": 7, "swa": 8}))


def test_codes_lists_every_language_for_text_and_those_with_a_voice_for_speech():
    for task in ("asr", "s2tt", "t2tt"):
        assert LARGE.codes(task) == sorted(CODES)
    for task in ("s2st", "t2st", "S2ST"):
        assert LARGE.codes(task) == sorted(VOICES)


def test_target_and_source_id_come_from_the_tables_of_the_checkpoint():
    assert LARGE.target("s2tt", "eng").token_id == LARGE.source_id("eng") == 256022
    assert LARGE.target("t2st", "fra").token_id == 256026
    assert LARGE.target("t2st", "fra").vocoder_id == VOICES.index("fra")
    assert SMALL.target("t2tt", "eng").token_id == 7


@pytest.mark.parametrize("code", CODES)
def test_target_accepts_a_code_of_the_checkpoint_in_any_case(code):
    for spelling in (code, code.upper(), f"__{code}__", code.replace("_", "-").lower(), f" {code} "):
        assert LARGE.target("t2tt", spelling).code == code


@pytest.mark.parametrize(
    ("spelling", "code"),
    [
        *zip("af am ar as az be bn bs bg ca cs zh cy da de el en et eu fi".split(), """
        afr amh arb asm azj bel ben bos bul cat ces cmn cym dan deu ell eng est eus fin""".split(), strict=True),
        *zip("fr ff om ga gl gu he hi hr hu hy ig id is it jv ja kn ka kk".split(), """
        fra fuv gaz gle glg guj heb hin hrv hun hye ibo ind isl ita jav jpn kan kat kaz""".split(), strict=True),
        *zip("mn km ky ko lo lt lg lv ml mr mk mt my nl nn nb no ne ny or".split(), """
        khk khm kir kor lao lit lug lvs mal mar mkd mlt mya nld nno nob nob npi nya ory""".split(), strict=True),
        *zip("pa ps fa pl pt ro ru sk sl sn sd so es sr sv sw ta te tg tl".split(), """
        pan pbt pes pol por ron rus slk slv sna snd som spa srp swe swh tam tel tgk tgl""".split(), strict=True),
        *zip("th tr uk ur uz vi yo ms zu".split(), "tha tur ukr urd uzn vie yor zlm zul".split(), strict=True),
        *zip("zsm msa zho ger fre swa fas ara aze lav mon nor".split(), """
        zlm zlm cmn deu fra swh pes arb azj lvs khk nob""".split(), strict=True),
        *zip("cn cz dk gr jp vn".split(), "cmn ces dan ell jpn vie".split(), strict=True),
        *zip("en-US pt_BR zh-CN zh-TW zh-Hant zho_Hant zh-Hans es-MX".split(), """
        eng por cmn cmn_Hant cmn_Hant cmn_Hant cmn spa""".split(), strict=True),
    ],
)  # fmt: skip
def test_target_and_source_id_accept_other_spellings(spelling, code):
    assert LARGE.target("t2tt", spelling).code == code
    assert LARGE.source_id(spelling) == CONFIG.text_lang_ids[code]


def test_target_refuses_a_spelling_of_a_language_that_the_checkpoint_lacks():
    assert SMALL.target("t2tt", "swa").code == "swa"
    for code in ("fr", "sw", "zh-TW"):
        with pytest.raises(UnknownLanguageError, match="This checkpoint has: eng, swa"):
            SMALL.target("t2tt", code)
    without_traditional = {code: i for code, i in CONFIG.text_lang_ids.items() if code != "cmn_Hant"}
    with pytest.raises(UnknownLanguageError):
        Languages(dataclasses.replace(CONFIG, text_lang_ids=without_traditional)).target("t2tt", "zh-TW")


@pytest.mark.parametrize(
    ("code", "meant"),
    [
        *(("frq", "fra"), ("egn", "eng"), ("fra_x", "fra"), ("zh-pinyin", "cmn")),
        *(("English", "eng"), ("german", "deu"), ("FRENCH", "fra"), ("chinese", "cmn"), ("mandarin", "cmn")),
        *(("malay", "zlm"), ("maltese", "mlt"), ("cantonese", "yue"), ("slovenian", "slv"), ("dutch", "nld")),
        *(("Chinese (Traditional)", "cmn_Hant"), ("egyptian-arabic", "arz"), ("brazilian portuguese", "por")),
    ],
)
def test_target_names_the_task_the_nearest_and_the_allowed_codes(code, meant):
    with pytest.raises(UnknownLanguageError) as caught:
        LARGE.target("t2tt", code)
    message = str(caught.value)
    assert message.startswith(f"t2tt cannot write '{code}'. Did you mean '{meant}'?")
    assert message.endswith(", ".join(sorted(CODES)))


@pytest.mark.parametrize(
    "code",
    [
        *("qqq", "slx", "esp", "kr", "hau", "hat_Latn"),  # no code is similar, or several are
        *("latin", "nederlands", "haitian creole", "hindi or urdu"),  # no language of the table, or two
        *("malayalam", "cantonese"),  # languages that are written but not spoken: no other language is suggested
    ],
)
def test_target_suggests_nothing_for_an_ambiguous_code(code):
    with pytest.raises(UnknownLanguageError) as caught:
        LARGE.target("s2st", code)
    assert str(caught.value) == f"s2st cannot speak {code!r}. This checkpoint has: {', '.join(sorted(VOICES))}"


def test_code_of_name_knows_every_language_of_the_checkpoint():
    assert set(CODE_OF_NAME.values()) == set(CODES)
    for name, code in CODE_OF_NAME.items():
        assert code_of_name(" ".join(name)) == code


@pytest.mark.parametrize(("code", "reason"), [("kan", "no voice"), ("ta", "no voice"), ("zul", "unit decoder")])
def test_target_says_why_a_language_can_be_written_but_not_spoken(code, reason):
    LARGE.target("s2tt", code)
    with pytest.raises(UnknownLanguageError) as caught:
        LARGE.target("s2st", code)
    message = str(caught.value)
    assert message.startswith(f"s2st cannot speak '{code}': this checkpoint can write") and reason in message
    assert message.endswith(", ".join(sorted(VOICES)))
    with pytest.raises(UnknownLanguageError):
        LARGE.target("t2st", code)


def test_source_id_refuses_an_unknown_language():
    with pytest.raises(UnknownLanguageError, match="text encoder does not know 'xxx'"):
        LARGE.source_id("xxx")


def test_codes_refuses_an_unknown_task():
    with pytest.raises(UsageError, match="unknown task 'tts': use one of asr, s2tt"):
        LARGE.codes("tts")


@pytest.mark.parametrize("change", [{"vocab_size": 256098}, {"vocoder_num_langs": 35}, {"text_lang_ids": {"eng": -1}}])
def test_languages_refuse_ids_that_do_not_fit_the_sizes(change):
    with pytest.raises(CheckpointError, match="lang_code_to_id|lang_to_code_id"):
        Languages(dataclasses.replace(CONFIG, **change))
