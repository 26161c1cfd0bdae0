"""Loading: every stored form of a checkpoint gives the same weights, every fault gives an error that names it."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import support.oracle  # noqa: F401 (keeps transformers quiet)
from seamless_engine import CheckpointError, Engine, Request, UsageError
from seamless_engine.config import ModelConfig
from seamless_engine.loading.loader import Checkpoint, find_checkpoint, modules_for
from seamless_engine.request import SPEECH_IN, TASKS, Task
from support.audio import clip_of_samples
from support.checkpoint import write_tiny
from support.parity import same
from tolerance import WEIGHT_NORM_RTOL

ALL = modules_for(TASKS)


def tensors(folder: Path, modules: tuple[str, ...] = ALL) -> dict[str, torch.Tensor]:
    checkpoint = Checkpoint.open(folder, ModelConfig.from_folder(folder), modules)
    weights = checkpoint.weights(torch.device("cpu"), torch.float32)
    return {name: weights.tensor(name) for name in checkpoint.sources}


def open_all(folder: Path) -> Checkpoint:
    return Checkpoint.open(folder, ModelConfig.from_folder(folder), ALL)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("plain"), 0)


@pytest.fixture
def damaged(plain: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the plain checkpoint. Keyword arguments replace tensors; None removes one."""

    def make(changes: dict[str, torch.Tensor | None]) -> Path:
        folder = tmp_path / "damaged"
        shutil.copytree(plain, folder)
        content = load_file(folder / "model.safetensors")
        for name, tensor in changes.items():
            content.pop(name, None)
            if tensor is not None:
                content[name] = tensor
        save_file(content, folder / "model.safetensors")
        return folder

    return make


@pytest.mark.parametrize(
    "spelling",
    [
        {"shards": 3},
        {"weight_norm": "legacy"},
        {"weight_norm": "parametrized"},
        {"shared_names": ["lm_head.weight"]},
        {"shared_names": ["text_decoder.embed_tokens.weight"]},
        {"shared_names": ["shared.weight", "lm_head.weight", "text_encoder.embed_tokens.weight"]},
        {"unit_names": ["t2u_model.lm_head.weight"]},
        {"underscored_maps": True},
    ],
    ids=str,
)
def test_weights_are_equal_for_every_stored_form(plain: Path, tmp_path: Path, spelling: dict[str, Any]) -> None:
    other = write_tiny(tmp_path / "other", 0, **spelling)
    expected, found = tensors(plain), tensors(other)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=WEIGHT_NORM_RTOL, atol=0.0)
    assert ModelConfig.from_folder(plain).text_lang_ids == ModelConfig.from_folder(other).text_lang_ids


@pytest.mark.parametrize("task", TASKS)
def test_open_reads_only_the_modules_of_the_tasks(plain: Path, task: Task) -> None:
    engine = Engine.from_pretrained(plain, tasks=[task], device="cpu")
    assert set(engine.weight_bytes) == set(modules_for([task]))
    for other in TASKS:
        if other != task:
            with pytest.raises(UsageError, match="was not loaded"):
                engine.generate([Request(other, "fra", **_source(other))])


def _source(task: Task) -> dict[str, Any]:
    return {"audio": "x.wav"} if task in SPEECH_IN else {"text": "x", "src_lang": "eng"}


@pytest.mark.parametrize("module", ["speech_encoder", "text_encoder", "text_decoder", "t2u_model", "vocoder"])
def test_open_names_a_missing_tensor_of_any_module(plain: Path, damaged: Callable[..., Path], module: str) -> None:
    names = sorted(name for name in load_file(plain / "model.safetensors") if name.startswith(module))
    folder = damaged({names[0]: None, names[-1]: None})
    with pytest.raises(CheckpointError) as error:
        open_all(folder)
    assert f"{names[0]} is missing" in str(error.value) and f"{names[-1]} is missing" in str(error.value)


def test_open_names_wrong_shapes_wrong_dtypes_and_unexpected_tensors_together(damaged: Callable[..., Path]) -> None:
    changes = {
        "text_decoder.layer_norm.weight": torch.ones(7),
        "vocoder.hifi_gan.conv_post.bias": torch.ones(1, dtype=torch.int64),
        "text_encoder.layers.99.ffn.fc1.weight": torch.ones(2, 2),
    }
    with pytest.raises(CheckpointError) as error:
        open_all(damaged(changes))
    for part in (
        "layer_norm.weight has shape [7]",
        "conv_post.bias has dtype I64",
        "layers.99.ffn.fc1.weight is unexpected",
    ):
        assert part in str(error.value)


def test_open_accepts_stored_tables_that_can_be_computed(damaged: Callable[..., Path]) -> None:
    open_all(damaged({"text_encoder.embed_positions.weights": torch.ones(3, 3)}))


def test_open_suggests_tasks_for_a_checkpoint_of_one_class(plain: Path, damaged: Callable[..., Path]) -> None:
    names = [name for name in load_file(plain / "model.safetensors") if name.split(".")[0] not in modules_for(["t2tt"])]
    folder = damaged(dict.fromkeys(names))
    with pytest.raises(CheckpointError, match="name the tasks to load"):
        open_all(folder)
    Engine.from_pretrained(folder, tasks=["t2tt"], device="cpu")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01\x02\x03",
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 200 << 20) + b" " * 100,
        struct.pack("<Q", 2) + b"{}" + b"tail",
        b"PK\x03\x04" + bytes(100),
    ],
    ids=["empty", "short", "huge-header", "large-header", "tail", "zip"],
)
def test_open_refuses_damaged_files(plain: Path, tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "bad"
    shutil.copytree(plain, folder)
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="model.safetensors"):
        open_all(folder)


def test_open_refuses_a_truncated_file(plain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    shutil.copytree(plain, folder)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="model.safetensors"):
        open_all(folder)


@pytest.mark.parametrize("name", ["../outside.safetensors", "missing.safetensors", 7])
def test_open_refuses_an_index_of_other_than_plain_existing_files(plain: Path, tmp_path: Path, name: Any) -> None:
    folder = tmp_path / "bad"
    shutil.copytree(plain, folder)
    index = {"weight_map": {"shared.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="index.json"):
        open_all(folder)


@pytest.mark.parametrize(
    "field,value",
    [
        ("hidden_size", -1),
        ("hidden_size", "64"),
        ("hidden_size", 2**60),
        ("encoder_attention_heads", 7),
        ("decoder_layers", 0),
        ("position_embeddings_type", "rotary"),
        ("num_adapter_layers", 2),
        ("upsample_rates", [5, 4]),
        ("upsample_kernel_sizes", [11, 8, 8, 4, 3]),
        ("layer_norm_eps", float("nan")),
        ("layer_norm_eps", float("inf")),
        ("layer_norm_eps", -1),
        ("feature_projection_input_dim", 256),
        ("hidden_size", None),
        ("model_type", "bert"),
    ],
)
def test_from_folder_names_a_field_that_makes_no_sense(plain: Path, tmp_path: Path, field: str, value: Any) -> None:
    config = json.loads((plain / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {field: value}))
    shutil.copy(plain / "generation_config.json", tmp_path)
    with pytest.raises(CheckpointError, match="config.json") as error:
        ModelConfig.from_folder(tmp_path)
    assert field.split("_")[0] in str(error.value)


@pytest.mark.parametrize(
    ("fields", "generation", "expected"),
    [
        ({"layer_norm_eps": 1}, {}, {"layer_norm_eps": 1.0}),
        ({"layer_norm_eps": 2.5}, {}, {"layer_norm_eps": 2.5}),
        ({"max_new_tokens": None}, {}, {"max_new_tokens": 32}),
        ({"max_new_tokens": 7}, {"max_new_tokens": None}, {"max_new_tokens": 7}),
        ({"max_new_tokens": None}, {"max_new_tokens": None}, {"max_new_tokens": 256}),
        ({"bos_token_id": None, "pad_token_id": None}, {}, {"bos_token_id": 2, "pad_token_id": 0}),
        ({"eos_token_id": [3, 2]}, {}, {"eos_token_id": 3}),  # generation_config.json says 3
        ({"eos_token_id": [3, 2]}, {"eos_token_id": [3]}, {"eos_token_id": 3}),
        ({"eos_token_id": [3, 3]}, {"eos_token_id": None}, {"eos_token_id": 3}),
        ({"eos_token_id": 2}, {"eos_token_id": 3}, {"eos_token_id": 3}),
        ({"eos_token_id": None}, {"eos_token_id": None}, {"eos_token_id": 3}),
        ({"decoder_start_token_id": 2}, {"decoder_start_token_id": 3}, {"decoder_start_token_id": 3}),
        ({"torch_dtype": "float16", "dtype": None, "no_such_field": {"a": [1]}}, {"cache_config": None}, {}),
    ],
    ids=str,
)
def test_from_folder_reads_a_config_of_transformers(
    plain: Path, tmp_path: Path, fields: dict[str, Any], generation: dict[str, Any], expected: dict[str, Any]
) -> None:
    for name, changes in (("config.json", fields), ("generation_config.json", generation)):
        content = json.loads((plain / name).read_text(encoding="utf-8"))
        (tmp_path / name).write_text(json.dumps(content | changes), encoding="utf-8")
    config = ModelConfig.from_folder(tmp_path)
    assert config == dataclasses.replace(ModelConfig.from_folder(plain), **expected)
    assert all(type(getattr(config, name)) is type(value) for name, value in expected.items())


@pytest.mark.parametrize("ends", [[3, 2], [3, 3, 0], [3, 7], [], [[3]], ["3"], [3.5], [True]])
def test_from_folder_requires_one_eos_token(plain: Path, tmp_path: Path, ends: list[Any]) -> None:
    shutil.copy(plain / "config.json", tmp_path)
    content = json.loads((plain / "generation_config.json").read_text(encoding="utf-8"))
    (tmp_path / "generation_config.json").write_text(json.dumps(content | {"eos_token_id": ends}), encoding="utf-8")
    if ends in ([3, 2], [3, 3, 0]):  # no text has 2 or 0
        with pytest.warns(UserWarning, match="a text ends with 3 here"):
            assert ModelConfig.from_folder(tmp_path).eos_token_id == 3
        return
    with pytest.raises(CheckpointError, match="generation_config.json: eos_token_id is"):
        ModelConfig.from_folder(tmp_path)


@pytest.mark.parametrize("field", ["sampling_rate", "num_mel_bins", "stride"])
@pytest.mark.parametrize("name", ["preprocessor_config.json", "processor_config.json"])
def test_from_folder_refuses_a_checkpoint_for_other_features(
    plain: Path, tmp_path: Path, name: str, field: str
) -> None:
    for file in ("config.json", "generation_config.json", "preprocessor_config.json"):
        shutil.copy(plain / file, tmp_path)
    settings: dict[str, Any] = json.loads((plain / "preprocessor_config.json").read_text(encoding="utf-8"))
    nested = name == "processor_config.json"
    (tmp_path / name).write_text(json.dumps({"feature_extractor": settings} if nested else settings), encoding="utf-8")
    ModelConfig.from_folder(tmp_path)
    settings[field] += 1
    (tmp_path / name).write_text(json.dumps({"feature_extractor": settings} if nested else settings), encoding="utf-8")
    with pytest.raises(CheckpointError, match=f"{name}: {field} is {settings[field]}; this engine supports"):
        ModelConfig.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "tasks"),
    [
        ("SeamlessM4Tv2Model", {"max_shard_size": "200KB"}, ["asr", "t2st"]),
        ("SeamlessM4Tv2ForSpeechToText", {}, ["s2tt"]),
    ],
)
def test_generate_is_equal_for_a_folder_that_transformers_saved(
    plain: Path, tmp_path: Path, name: str, options: dict[str, Any], tasks: list[Task]
) -> None:
    getattr(transformers, name).from_pretrained(plain).save_pretrained(tmp_path, **options)
    transformers.AutoProcessor.from_pretrained(plain).save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"tokenizer.json", "processor_config.json"} <= names and "sentencepiece.bpe.model" not in names
    assert ("model.safetensors.index.json" in names) == bool(options)
    requests = [
        Request(task, "fra", audio=clip_of_samples(3, 9_000), sampling_rate=16_000)
        if task in SPEECH_IN
        else Request(task, "fra", text="Good morning! How are you?", src_lang="eng")
        for task in tasks
    ]
    found, expected = (
        Engine.from_pretrained(folder, tasks=tasks, device="cpu").generate(requests) for folder in (tmp_path, plain)
    )
    for one, other in zip(found, expected, strict=True):
        assert one.error is None and same(one, other)


def test_open_refuses_a_config_that_does_not_fit_the_tensors(plain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    shutil.copytree(plain, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"decoder_ffn_dim": 137}))
    with pytest.raises(CheckpointError, match="the config asks for"):
        open_all(folder)


def test_from_pretrained_gives_advice_for_missing_and_pickled_checkpoints(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a folder"):
        find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="config.json is missing"):
        Engine.from_pretrained(tmp_path, device="cpu")
    for name in ("config.json", "generation_config.json", "sentencepiece.bpe.model"):
        shutil.copy(plain / name, tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="convert them to safetensors"):
        Engine.from_pretrained(tmp_path, device="cpu")


@pytest.fixture
def cache(plain: Path, tmp_path: Path) -> Path:
    """A hub cache with two revisions of a model. The files of the second one are in a subfolder."""
    model = tmp_path / "cache" / "models--someone--tiny"
    shutil.copytree(plain, model / "snapshots" / "0123abcd")
    shutil.copytree(plain, model / "snapshots" / "4567cdef" / "inner")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0123abcd")
    (model / "refs" / "v2").write_text("4567cdef")
    return tmp_path / "cache"


def test_find_checkpoint_finds_a_hub_id_in_the_cache_offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    assert find_checkpoint("someone/tiny") == cache / "models--someone--tiny" / "snapshots" / "0123abcd"


def test_find_checkpoint_accepts_revision_cache_and_subfolder(cache: Path) -> None:
    snapshots = cache / "models--someone--tiny" / "snapshots"
    options: dict[str, Any] = {"cache_dir": cache, "local_files_only": True, "token": "hf_x"}
    assert find_checkpoint("someone/tiny", **options) == snapshots / "0123abcd"
    assert find_checkpoint("someone/tiny", revision="v2", subfolder="inner", **options) == snapshots / "4567cdef/inner"
    engine = Engine.from_pretrained("someone/tiny", tasks=["t2tt"], device="cpu", revision="main", **options)
    assert engine.tasks == ("t2tt",)
    with pytest.raises(CheckpointError, match="at revision v3"):
        Engine.from_pretrained("someone/tiny", revision="v3", **options)
    with pytest.raises(CheckpointError, match="has no folder outer"):
        find_checkpoint("someone/tiny", subfolder="outer", **options)


def test_find_checkpoint_does_not_use_the_hub_for_a_local_folder(plain: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"revision": "v2", "cache_dir": tmp_path, "token": "hf_x", "force_download": True}
    assert find_checkpoint(plain, **options) == plain
    assert find_checkpoint(plain.parent, subfolder=plain.name) == plain


def test_find_checkpoint_passes_its_arguments_to_the_download(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def download(name: str, **options: Any) -> str:
        calls.append({"name": name, **options})
        return str(plain)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    options = {"revision": "v2", "token": "hf_x", "cache_dir": "/c", "local_files_only": True, "force_download": True}
    assert find_checkpoint("someone/tiny", **options) == plain
    assert calls[0].items() >= ({"name": "someone/tiny"} | options).items()
    assert {"*.json", "*.safetensors", "sentencepiece.bpe.model"} == set(calls[0]["allow_patterns"])


def test_find_checkpoint_says_offline_where_it_looked() -> None:
    with pytest.raises(CheckpointError, match="token=.*HF_HOME"):
        find_checkpoint("owner/has-no-such-model")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/cache/x.incomplete"), "No space left.*x.incomplete"),
        (PermissionError(errno.EACCES, "Permission denied", "/cache"), "Permission denied"),
        (RuntimeError("Data processing error: connection closed"), "Data processing error"),
        (ConnectionError(), "ConnectionError"),
    ],
)
def test_find_checkpoint_says_why_a_download_failed(
    error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str, **options: Any) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(CheckpointError, match=f"owner/name could not be fetched .*cache_dir.*: .*{reason}") as caught:
        find_checkpoint("owner/name")
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_generate_works_in_half_precision(plain: Path, dtype: str) -> None:
    engine = Engine.from_pretrained(plain, device="cpu", dtype=dtype)
    results = engine.generate([Request("t2st", "fra", text="Good morning!", src_lang="eng")])
    assert results[0].error is None and results[0].audio is not None and results[0].audio.dtype.name == "float32"
