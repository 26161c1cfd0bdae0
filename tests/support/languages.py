"""The language tables of the published checkpoint."""

from __future__ import annotations

from seamless_engine.config import ModelConfig
from seamless_engine.inputs.languages import Languages

CODES = """
afr amh arb ary arz asm azj bel ben bos bul cat ceb ces ckb cmn cmn_Hant cym dan deu ell eng est eus fin fra fuv gaz gle
glg guj heb hin hrv hun hye ibo ind isl ita jav jpn kan kat kaz khk khm kir kor lao lit lug luo lvs mai mal mar mkd mlt
mni mya nld nno nob npi nya ory pan pbt pes pol por ron rus sat slk slv sna snd som spa srp swe swh tam tel tgk tgl tha
tur ukr urd uzn vie yor yue zlm zul
""".split()
VOICES = """
arb ben cat ces cmn cym dan deu eng est fin fra hin ind ita jpn kor mlt nld pes pol por ron rus slk spa swe swh tel tgl
tha tur ukr urd uzn vie
""".split()
CONFIG = ModelConfig(
    text_lang_ids={code: 256001 + i for i, code in enumerate(CODES)},
    t2u_langs=frozenset([*VOICES, "kan", "tam"]),
    vocoder_lang_ids={code: i for i, code in enumerate(VOICES)},
)
LARGE = Languages(CONFIG)
