"""`from_pretrained` of the drop-in classes, and the names of transformers in their module."""

from __future__ import annotations

import fnmatch
import importlib
import inspect
import json
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.models.auto import modeling_auto

from seamless_engine import EngineConfig, UsageError, hf
from seamless_engine.hf import loading
from support.audio import clip_of_frames
from support.hf import SPOKEN, ours, speech, text, theirs
from support.parity import TEXTS

Checkpoint = Callable[..., Path]
PAGE = (Path(__file__).parents[1] / "docs" / "transformers-loading.md").read_text(encoding="utf-8")
load: Any = hf.SeamlessM4Tv2ForTextToText.from_pretrained


# Values without effect.
HUB = {"cache_dir": "/nowhere", "token": "hf_x", "revision": "main", "local_files_only": True, "force_download": True}
NO_EFFECT = {name: True for name in loading.NO_EFFECT} | {"attn_implementation": "flash_attention_2"}
NEUTRAL: dict[str, Any] = dict.fromkeys(loading.REFUSED) | {"use_safetensors": True, "attn_implementation": "eager"}
NEUTRAL |= {"load_in_8bit": False, "load_in_4bit": False, "variant": "", "proxies": {}, "output_loading_info": False}


@pytest.mark.parametrize(
    "arguments",
    [
        {"device": "cpu", "use_auth_token": True, "torch_dtype": "torch.float32"} | HUB | NO_EFFECT,
        {"device_map": {"text_encoder": "cpu", "text_decoder": "cpu"}, "dtype": "auto", "subfolder": ""} | NEUTRAL,
    ],
    ids=["no effect", "neutral"],
)
def test_from_pretrained_accepts_arguments_without_effect(checkpoint: Checkpoint, arguments: dict[str, Any]) -> None:
    folder = checkpoint(0)
    inputs = text(folder, TEXTS[0])
    expected = ours("SeamlessM4Tv2ForTextToText", folder).generate(**inputs, tgt_lang=SPOKEN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load(folder, **arguments)
    assert torch.equal(found.generate(**inputs, tgt_lang=SPOKEN), expected)


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("load_in_8bit", True, r'EngineConfig\(int8=\("text_decoder",\)\)'),
        ("quantization_config", transformers.BitsAndBytesConfig(load_in_8bit=True), r"EngineConfig\(int8="),
        ("attn_implementation", "flex_attention", "sdpa, eager, flash_attention_2"),
        ("proxies", {"https": "localhost"}, "HTTPS_PROXY"),
        ("use_safetensors", False, "only safetensors"),
        ("variant", "fp16", "dtype chooses"),
        ("state_dict", {"shared.weight": 1}, "give its folder"),
        ("output_loading_info", True, "errors here"),
        ("tp_plan", "auto", "one device"),
        ("device_map", {"text_encoder": 0, "text_decoder": "cpu"}, "one device"),
        ("from_tf", True, "safetensors"),
        ("max_new_tokens", 7, "as its config.json says"),
        ("config", "config.json", "leave it out"),
        ("torch_dtyp", torch.float16, "did you mean 'torch_dtype'"),
        ("cachedir", "/tmp", "did you mean 'cache_dir'"),
        ("no_such_argument_at_all", None, "has no argument 'no_such_argument_at_all'"),
    ],
)
def test_from_pretrained_refuses_arguments_with_advice(
    checkpoint: Checkpoint, name: str, value: Any, advice: str
) -> None:
    with pytest.raises(UsageError, match=name) as error:
        load(checkpoint(0), **{name: value})
    assert error.match(advice)


def test_from_pretrained_advice_for_8_bits_works(checkpoint: Checkpoint) -> None:
    model = load(checkpoint(0), device="cpu", options=EngineConfig(int8=("text_decoder",)))
    assert model.engine.options.int8 == ("text_decoder",)


def test_from_pretrained_accepts_max_memory_with_a_warning(checkpoint: Checkpoint) -> None:
    with pytest.warns(UserWarning, match="max_memory has no effect"):
        load(checkpoint(0), device="cpu", max_memory={0: "20GB"})


def test_from_pretrained_passes_its_arguments_to_the_hub(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = tmp_path / "models--someone--tiny"
    shutil.copytree(checkpoint(0), model / "snapshots" / "4567cdef" / "inner")
    (model / "refs").mkdir()
    (model / "refs" / "v2").write_text("4567cdef")
    where: dict[str, Any] = {"cache_dir": tmp_path, "revision": "v2", "subfolder": "inner", "local_files_only": True}
    assert load("someone/tiny", device="cpu", **where).config == hf.AutoConfig.from_pretrained("someone/tiny", **where)


def test_config_from_pretrained_needs_no_weights(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, allow_patterns: list[str], **options: Any) -> str:
        assert name == "owner/name" and options["revision"] == "v2"
        assert not any(fnmatch.fnmatch("model-00001-of-00002.safetensors", one) for one in allow_patterns)
        return str(checkpoint(0))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    found = hf.AutoConfig.from_pretrained("owner/name", revision="v2")
    assert found == hf.AutoConfig.from_pretrained(checkpoint(0))


def test_page_of_loading_lists_every_argument() -> None:
    named = set(inspect.signature(transformers.PreTrainedModel.from_pretrained).parameters)
    assert named - {"pretrained_model_name_or_path", "model_args", "kwargs"} <= loading.KNOWN
    listed = {
        name: status
        for cell, status in re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (\w[\w ]+) \|", PAGE, re.MULTILINE)
        for name in cell.strip("`").split("`, `")
    }
    assert set(listed) == loading.KNOWN
    assert {name for name, status in listed.items() if status == "refused"} == loading.REFUSED.keys() - {
        "attn_implementation"
    }
    assert {*loading.NO_EFFECT, "max_memory"} <= {name for name, status in listed.items() if status == "no effect"}


def test_page_of_loading_lists_every_name() -> None:
    for name in (*hf.TRANSFORMERS_NAMES, *(name for name in hf.__all__ if name.startswith("Auto"))):
        assert f"`{name}`" in PAGE


@pytest.mark.parametrize("spelling", ["half", "float16", "torch.float16", torch.float16])
def test_from_pretrained_accepts_every_spelling_of_a_dtype(spelling: Any) -> None:
    assert loading.dtype_of(spelling, None, {}) == loading.dtype_of(None, spelling, {}) == torch.float16
    assert loading.dtype_of("auto", None, {"torch_dtype": spelling}) == torch.float16


@pytest.mark.parametrize("placement", ["auto", "balanced", "sequential", None])
def test_from_pretrained_takes_a_placement_over_devices_as_one_device(placement: str | None) -> None:
    assert loading.device_of(None, placement) == "auto"


def test_from_pretrained_accepts_only_the_configuration_of_the_checkpoint(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    own, reference = hf.AutoConfig.from_pretrained(folder), transformers.AutoConfig.from_pretrained(folder)
    for config in (own, reference):
        assert load(folder, device="cpu", config=config).config == own
    reference.decoder_layers += 1
    with pytest.raises(UsageError, match="config has decoder_layers=3, and config.json 2"):
        load(folder, config=reference)


def test_config_save_pretrained_raises_with_advice(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"copy config\.json"):
        hf.AutoConfig.from_pretrained(checkpoint(0)).save_pretrained(tmp_path)


def test_generate_equals_transformers_for_a_saved_folder(checkpoint: Checkpoint, tmp_path: Path) -> None:
    config = json.loads((checkpoint(0) / "config.json").read_text(encoding="utf-8"))
    source = Path(shutil.copytree(checkpoint(0), tmp_path / "source"))
    changes = {"layer_norm_eps": 1.0, "max_new_tokens": None, "eos_token_id": [3, 2]}
    (source / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    folder = tmp_path / "saved"
    theirs("SeamlessM4Tv2ForSpeechToText", source).save_pretrained(folder)
    transformers.AutoProcessor.from_pretrained(source).save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text(encoding="utf-8")).items() >= changes.items()
    for seed in range(2):
        inputs = speech(folder, clip_of_frames(seed, 100))
        found = ours("SeamlessM4Tv2ForSpeechToText", folder).generate(**inputs, tgt_lang=SPOKEN)
        expected = theirs("SeamlessM4Tv2ForSpeechToText", folder).generate(**inputs, tgt_lang=SPOKEN)
        assert torch.equal(found, expected)


def test_auto_classes_equal_the_choice_of_transformers() -> None:
    mappings = {
        "AutoModel": modeling_auto.MODEL_MAPPING_NAMES,
        "AutoModelForSeq2SeqLM": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        "AutoModelForSpeechSeq2Seq": modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
        "AutoModelForTextToWaveform": modeling_auto.MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING_NAMES,
    }
    for name, mapping in mappings.items():
        assert getattr(hf, name).__name__ == mapping["seamless_m4t_v2"]
    assert hf.AutoConfig is hf.SeamlessM4Tv2Config


@pytest.mark.parametrize("name", sorted(hf.TRANSFORMERS_NAMES))
def test_hf_gives_transformers_own_names(name: str) -> None:
    assert getattr(hf, name) is getattr(transformers, name)


def test_hf_raises_for_unknown_names() -> None:
    for name in ("SeamlessM4TModel", "WhisperModel", "no_such_name"):  # transformers itself would run these
        assert not hasattr(hf, name)


def test_hf_names_of_transformers_need_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match="AutoProcessor is transformers' own.*pip install transformers"):
        importlib.import_module("seamless_engine.hf").AutoProcessor  # noqa: B018
