"""The trained parts as one checkpoint in the official folder format, float16.

    python -m demo.train.export --work DIR --out demo/checkpoint

A part that was not trained yet keeps its fresh weights, and is named.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import SeamlessM4Tv2Model

from demo.train.network import Translator, build
from demo.train.tokens import EOS, MODEL, Tokens
from demo.train.words import LANGUAGES

_SPECIALS = ("<pad>", "<unk>", "<s>", "</s>")


def maps(tokens: Tokens) -> dict[str, Any]:
    """What generation_config.json says beyond the numbers in config.json."""
    pieces = {i + 1: tokens.model.id_to_piece(i) for i in range(tokens.pieces)}
    languages = {index: f"__{lang}__" for lang, index in tokens.lang.items()}
    names = {0: "<pad>", **pieces, **languages}
    codes = {lang: i for i, lang in enumerate(LANGUAGES)}
    return {
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": EOS,
        "decoder_start_token_id": EOS,
        "max_new_tokens": 64,
        "text_decoder_lang_to_code_id": tokens.lang,
        "t2u_lang_code_to_id": codes,
        "vocoder_lang_code_to_id": codes,
        "id_to_text": {str(i): name for i, name in names.items()},
        "char_to_id": tokens.characters,
    }


def tokenizer_config(tokens: Tokens) -> dict[str, Any]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    codes = {index: f"__{lang}__" for lang, index in tokens.lang.items()}
    added = dict(enumerate(_SPECIALS)) | codes
    return {
        "tokenizer_class": "SeamlessM4TTokenizer",
        "added_tokens_decoder": {str(i): {"content": name, **flags} for i, name in added.items()},
        "additional_special_tokens": list(codes.values()),
        **dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), _SPECIALS, strict=True)),
        "cls_token": "<s>",
        "sep_token": "</s>",
        "clean_up_tokenization_spaces": True,
        "model_max_length": int(1e30),
        "sp_model_kwargs": {},
        "src_lang": "__eng__",
        "tgt_lang": "__fra__",
    }


PREPROCESSOR = {
    "feature_extractor_type": "SeamlessM4TFeatureExtractor",
    "processor_class": "SeamlessM4TProcessor",
    "feature_size": 80,
    "num_mel_bins": 80,
    "sampling_rate": 16000,
    "stride": 2,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": True,
}


def assembled(work: Path, tokens: Tokens, hidden: int) -> SeamlessM4Tv2Model:
    """The model, with the trained parts that `work` has."""
    model = build(tokens, hidden)
    parts = {"speech_text": Translator(model, tokens), "t2u": model.t2u_model, "vocoder": model.vocoder}
    keys = {"speech_text": "net", "t2u": "units", "vocoder": "vocoder"}
    for name, part in parts.items():
        path = work / f"{name}.pt"
        if not path.exists():
            print(f"{name}: not trained yet")
            continue
        state = torch.load(path, map_location="cpu", weights_only=True)
        weights = {key.removeprefix("t2u."): weight for key, weight in state[keys[name]].items()}
        part.load_state_dict(weights)
        step, hours, minutes = state["counters"][:3]
        print(f"{name}: step {step}, {hours:.2f} h of audio, {minutes:.1f} CPU minutes")
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--hidden", type=int, default=128)
    args = parser.parse_args()
    tokens = Tokens(args.work)
    model = assembled(args.work, tokens, args.hidden)
    for name, value in maps(tokens).items():
        setattr(model.generation_config, name, value)
    model.generation_config._from_model_config = False  # true makes transformers drop the maps
    args.out.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(args.out)
    shutil.copyfile(args.work / MODEL, args.out / MODEL)
    for file, content in (("tokenizer_config", tokenizer_config(tokens)), ("preprocessor_config", PREPROCESSOR)):
        text = json.dumps(content, ensure_ascii=False, indent=1)
        (args.out / f"{file}.json").write_text(text + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in args.out.iterdir())
    print(f"{args.out}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
