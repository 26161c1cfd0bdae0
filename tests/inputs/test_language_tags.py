"""Codes of FLEURS, FLORES and BCP 47 give the language in the script that they name, or are refused."""

from __future__ import annotations

import dataclasses

import pytest

from seamless_engine.errors import UnknownLanguageError
from seamless_engine.inputs.language_tags import CODE_OF, script_of
from seamless_engine.inputs.languages import Languages
from support.languages import CODES, CONFIG, LARGE

FLEURS = """
af_za afr | am_et amh | ar_eg arb | as_in asm | az_az azj | be_by bel | bg_bg bul | bn_in ben | bs_ba bos | ca_es cat
ceb_ph ceb | ckb_iq ckb | cmn_hans_cn cmn | cs_cz ces | cy_gb cym | da_dk dan | de_de deu | el_gr ell | en_us eng
es_419 spa | et_ee est | fa_ir pes | ff_sn fuv | fi_fi fin | fil_ph tgl | fr_fr fra | ga_ie gle | gl_es glg | gu_in guj
he_il heb | hi_in hin | hr_hr hrv | hu_hu hun | hy_am hye | id_id ind | ig_ng ibo | is_is isl | it_it ita | ja_jp jpn
jv_id jav | ka_ge kat | kk_kz kaz | km_kh khm | kn_in kan | ko_kr kor | ky_kg kir | lg_ug lug | lo_la lao | lt_lt lit
luo_ke luo | lv_lv lvs | mk_mk mkd | ml_in mal | mn_mn khk | mr_in mar | ms_my zlm | mt_mt mlt | my_mm mya | nb_no nob
ne_np npi | nl_nl nld | ny_mw nya | om_et gaz | or_in ory | pa_in pan | pl_pl pol | ps_af pbt | pt_br por | ro_ro ron
ru_ru rus | sd_in snd | sk_sk slk | sl_si slv | sn_zw sna | so_so som | sr_rs srp | sv_se swe | sw_ke swh | ta_in tam
te_in tel | tg_tj tgk | th_th tha | tr_tr tur | uk_ua ukr | ur_pk urd | uz_uz uzn | vi_vn vie | yo_ng yor
yue_hant_hk yue | zu_za zul
"""
FLEURS_WITHOUT = "ast_es ha_ng kam_ke kea_cv lb_lu ln_cd mi_nz nso_za oc_fr umb_ao wo_sn xh_za"
FLORES = """
afr_Latn amh_Ethi arb_Arab ary_Arab arz_Arab asm_Beng azj_Latn bel_Cyrl ben_Beng bos_Latn bul_Cyrl cat_Latn ceb_Latn
ces_Latn ckb_Arab cym_Latn dan_Latn deu_Latn ell_Grek eng_Latn est_Latn eus_Latn fin_Latn fra_Latn fuv_Latn gaz_Latn
gle_Latn glg_Latn guj_Gujr heb_Hebr hin_Deva hrv_Latn hun_Latn hye_Armn ibo_Latn ind_Latn isl_Latn ita_Latn jav_Latn
jpn_Jpan kan_Knda kat_Geor kaz_Cyrl khk_Cyrl khm_Khmr kir_Cyrl kor_Hang lao_Laoo lit_Latn lug_Latn luo_Latn lvs_Latn
mai_Deva mal_Mlym mar_Deva mkd_Cyrl mlt_Latn mni_Beng mya_Mymr nld_Latn nno_Latn nob_Latn npi_Deva nya_Latn ory_Orya
pan_Guru pbt_Arab pes_Arab pol_Latn por_Latn ron_Latn rus_Cyrl sat_Olck slk_Latn slv_Latn sna_Latn snd_Arab som_Latn
spa_Latn srp_Cyrl swe_Latn swh_Latn tam_Taml tel_Telu tgk_Cyrl tgl_Latn tha_Thai tur_Latn ukr_Cyrl urd_Arab uzn_Latn
vie_Latn yor_Latn yue_Hant zho_Hans zho_Hant zsm_Latn zul_Latn
"""
FLORES_WITHOUT = """
ace_Arab ace_Latn acm_Arab acq_Arab aeb_Arab ajp_Arab aka_Latn als_Latn apc_Arab arb_Latn ars_Arab ast_Latn awa_Deva
ayr_Latn azb_Arab bak_Cyrl bam_Latn ban_Latn bem_Latn bho_Deva bjn_Arab bjn_Latn bod_Tibt bug_Latn cjk_Latn crh_Latn
dik_Latn dyu_Latn dzo_Tibt epo_Latn ewe_Latn fao_Latn fij_Latn fon_Latn fur_Latn gla_Latn grn_Latn hat_Latn hau_Latn
hne_Deva ilo_Latn kab_Latn kac_Latn kam_Latn kas_Arab kas_Deva kbp_Latn kea_Latn kik_Latn kin_Latn kmb_Latn kmr_Latn
knc_Arab knc_Latn kon_Latn lij_Latn lim_Latn lin_Latn lmo_Latn ltg_Latn ltz_Latn lua_Latn lus_Latn mag_Deva min_Arab
min_Latn mos_Latn mri_Latn nso_Latn nus_Latn oci_Latn pag_Latn pap_Latn plt_Latn prs_Arab quy_Latn run_Latn sag_Latn
san_Deva scn_Latn shn_Mymr sin_Sinh smo_Latn sot_Latn srd_Latn ssw_Latn sun_Latn szl_Latn taq_Latn taq_Tfng tat_Cyrl
tir_Ethi tpi_Latn tsn_Latn tso_Latn tuk_Latn tum_Latn twi_Latn tzm_Tfng uig_Arab umb_Latn vec_Latn war_Latn wol_Latn
xho_Latn ydd_Hebr
"""
BCP_47 = """
zh-Hant-HK cmn_Hant | zh-Hans-HK cmn | zh-HK cmn_Hant | zh-TW cmn_Hant | zh-US cmn_Hant | zh-SG cmn | zh cmn
zh-cmn-Hans-CN cmn | zh-yue yue | zh-yue-Hant-HK yue | yue-HK yue | cmn-Hant-TW cmn_Hant | ZH_hant_tw cmn_Hant
sr-Cyrl srp | sr-RS srp | sr-Cyrl-ME srp | uz-Latn-AF uzn | pa-Guru-PK pan | pa-IN pan | az-Latn-IR azj | mn-Cyrl-CN khk
pt-BR por | pt-PT por | es-419 spa | en-001 eng | nb-NO nob | nn-NO nno | no-NO nob | ar-arz arz | ar-EG arb
de-CH-1901 deu | ca-valencia cat | sl-rozaj-biske-1994 slv | de-Latn-DE-1996 deu | en-US-u-ca-gregory eng
de-DE-x-private deu | ur-Aran urd | ko-Hang kor | ko-Kore-KP kor | ja-Jpan jpn | fil-PH tgl | iw-IL heb | in-ID ind
ms-zsm zlm | lv-lvs lvs
"""
# A script that the checkpoint does not write, in the tag or by its region.
WRONG_SCRIPT = """
sr-Latn sr_latn_rs srp_Latn sr-ME bs-Cyrl uz-Cyrl uz-Arab uz-AF uzn_Cyrl az-Arab az-Cyrl az-IR pa-Arab pa-PK pan_Arab
kk-Latn kk-Arab kk-CN mn-Mong mn-CN ky-Arab ky-CN ky-Latn tg-Arab tg-PK yue-Hans yue-CN zh-Latn zh-Bopo zh-yue-Hans
cmn_Latn ja-Latn ko-Latn hi-Latn ur-Deva ur-Latn sd-Deva ms-Arab ms-CC mni-Mtei sat-Deva sat_Beng ff-Adlm
ro-Cyrl jv-Java vi-Hani ar-Latn fa-Latn ru-Latn en-Dsrt de-Brai ckb-Latn
"""
# Romanised or phonetic, of an unknown language or script, or not a tag.
NO_TAG = """
zh-pinyin ja-hepburn en-fonipa az-baku1926 ru-alalc97 zh-min-nan zh-wuu zh-eng fra_eng sh ku ku-Arab i-klingon
art-lojban sr_RS@latin en_US.UTF-8 fra_ _fra fra__Latn_ e x-eng enn-US Latn 419 pt-
"""


def wanted(table: str) -> dict[str, str]:
    """The language of each tag."""
    words = table.replace("|", "").split()
    return dict(zip(words[::2], words[1::2], strict=True))


def refused(tag: str, table: Languages = LARGE) -> bool:
    """Whether a tag is refused, both as a target language and as a source language."""
    for find in (lambda tag: table.target("t2tt", tag).code, table.source_id):
        try:
            find(tag)
        except UnknownLanguageError:
            continue
        return False
    return True


@pytest.mark.parametrize("table", [FLEURS, BCP_47], ids=["FLEURS", "BCP 47"])
def test_target_and_source_id_accept_language_tags(table: str) -> None:
    assert {tag: LARGE.target("t2tt", tag).code for tag in wanted(table)} == wanted(table)
    assert all(LARGE.source_id(tag) == CONFIG.text_lang_ids[code] for tag, code in wanted(table).items())


def test_target_accepts_the_flores_code_of_every_language() -> None:
    renamed = {"zho_Hans": "cmn", "zho_Hant": "cmn_Hant", "zsm_Latn": "zlm"}
    found = {tag: LARGE.target("t2tt", tag).code for tag in FLORES.split()}
    assert found == {tag: renamed.get(tag, tag[:3]) for tag in found}
    assert sorted(found.values()) == sorted(CODES)


@pytest.mark.parametrize("table", [FLEURS_WITHOUT, FLORES_WITHOUT, WRONG_SCRIPT, NO_TAG])
def test_target_and_source_id_refuse_tags_of_another_language_or_script(table: str) -> None:
    assert [tag for tag in table.split() if not refused(tag)] == []


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("sr-Latn", "t2tt cannot write 'sr-Latn' in the script Latn: this checkpoint has the language in Cyrl, 'srp'"),
        ("pa-PK", "t2tt cannot write 'pa-PK' in the script Arab: this checkpoint has the language in Guru, 'pan'"),
        (
            "zh-Latn",
            "t2tt cannot write 'zh-Latn' in the script Latn: this checkpoint has the language in Hans, 'cmn' and Hant, "
            "'cmn_Hant'",
        ),
    ],
)
def test_target_refuses_another_script_and_names_the_available_one(tag: str, message: str) -> None:
    with pytest.raises(UnknownLanguageError) as caught:
        LARGE.target("t2tt", tag)
    assert str(caught.value) == message


def test_target_uses_the_scripts_in_the_codes_of_the_checkpoint() -> None:
    codes = ("srp_Latn", "srp", "xyz", "kmr_Latn")
    table = Languages(dataclasses.replace(CONFIG, text_lang_ids={code: i for i, code in enumerate(codes)}))
    found = {
        tag: table.target("t2tt", tag).code for tag in ("sr-Latn", "sr-ME", "sr", "sr-Cyrl-ME", "xyz-AB", "kmr-Latn-TR")
    }
    assert [*found.values()] == ["srp_Latn", "srp_Latn", "srp", "srp", "xyz", "kmr_Latn"]
    assert all(refused(tag, table) for tag in ("xyz-Latn", "kmr", "kmr-Arab"))


def test_language_tables_have_every_language_of_the_checkpoint_and_its_script() -> None:
    assert set(CODE_OF.values()) == set(CODES) - {"cmn_Hant"}
    assert all(script_of(code) for code in CODES)
