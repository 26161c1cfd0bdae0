"""transformers loads the random checkpoints, and their results vary enough to test an engine with."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
from safetensors.torch import load_file

import support.repository  # noqa: F401
from seamless_engine.config import ModelConfig
from seamless_engine.loading.tensor_table import MODULES, SHARED_NAMES, UNIT_NAMES, tensor_shapes, vocoder_convolutions
from seamless_engine.request import DecodingParams, Request
from support import audio, oracle
from tolerance import WEIGHT_NORM_RTOL, assert_close_to_fp64
from tools.random_checkpoint import CORPUS

Build = Callable[..., Path]

# Tensors and parameters of v2-large by module.
V2_LARGE = {
    "shared": (1, 262_248_448),
    "speech_encoder": (802, 635_046_720),
    "text_encoder": (386, 503_736_320),
    "text_decoder": (626, 604_547_072),
    "t2u_model": (210, 261_759_747),
    "vocoder": (207, 41_911_362),
}


def speech_requests(count: int) -> list[Request]:
    return [Request("s2st", "fra", audio=audio.clip(i, 0.6 + 0.3 * i)) for i in range(count)]


def text_requests(count: int) -> list[Request]:
    return [Request("t2st", "fra", text=CORPUS[i], src_lang="eng") for i in range(count)]


@pytest.mark.parametrize("module", MODULES)
def test_layout_of_the_default_config_is_v2_large(module: str) -> None:
    shapes = tensor_shapes(ModelConfig(), (module,))
    assert (len(shapes), sum(map(math.prod, shapes.values()))) == V2_LARGE[module]


def test_layout_has_2232_tensors() -> None:
    shapes = tensor_shapes(ModelConfig())
    assert (len(shapes), sum(map(math.prod, shapes.values()))) == (2232, 2_309_249_669)
    assert len(vocoder_convolutions(ModelConfig())) == 97


@pytest.mark.parametrize("seed", range(3))
def test_files_hold_exactly_the_layout(checkpoint: Build, seed: int) -> None:
    folder = checkpoint(seed)
    stored = {name: tuple(tensor.shape) for name, tensor in load_file(folder / "model.safetensors").items()}
    assert stored == tensor_shapes(ModelConfig.from_folder(folder))


@pytest.mark.parametrize("seed", range(3))
def test_transformers_reads_every_tensor_and_all_maps(checkpoint: Build, seed: int) -> None:
    reference = oracle.load(checkpoint(seed))  # refuses missing, unexpected and mismatched tensors
    stored = load_file(checkpoint(seed) / "model.safetensors")
    state = reference.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in stored.items())
    maps = json.loads((checkpoint(seed) / "generation_config.json").read_text())
    assert all(getattr(reference.model.generation_config, k) == v for k, v in maps.items() if isinstance(v, dict))


def test_vocabulary_has_the_official_order(checkpoint: Build) -> None:
    folder = checkpoint(0)
    config = ModelConfig.from_folder(folder)
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.bpe.model"))
    pieces = [tokenizer.id_to_piece(i) for i in range(tokenizer.get_piece_size())]
    texts = [config.id_to_text[i] for i in range(config.vocab_size)]
    assert texts[:4] == ["<pad>", "<unk>", "<s>", "</s>"]
    assert texts[4 : len(pieces) + 1] == pieces[3:]
    assert [config.id_to_text[i] for i in config.text_lang_ids.values()] == [f"__{c}__" for c in config.text_lang_ids]
    assert min(config.text_lang_ids.values()) == len(pieces) + 1
    assert len(set(texts)) == len(texts)
    assert set(config.vocoder_lang_ids) < config.t2u_langs < set(config.text_lang_ids)


def test_pieces_beyond_the_corpus_are_made_up_and_change_no_text(checkpoint: Build) -> None:
    small, large = (
        sentencepiece.SentencePieceProcessor(model_file=str(checkpoint(0, vocab_size=size) / "sentencepiece.bpe.model"))
        for size in (1011, 5000)
    )
    assert (small.get_piece_size(), large.get_piece_size()) == (1000, 4989)
    assert all(small.encode(sentence) == large.encode(sentence) for sentence in CORPUS)
    assert len({large.id_to_piece(i) for i in range(4989)}) == 4989
    assert large.decode(list(range(3, 4989)))


def test_same_arguments_write_the_same_bytes(checkpoint: Build, tmp_path: Path) -> None:
    from support.checkpoint import write_tiny

    again = write_tiny(tmp_path, 4)
    for path in checkpoint(4).iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_shards_hold_the_same_tensors(checkpoint: Build) -> None:
    index = json.loads((checkpoint(0, shards=3) / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)]
    sharded = {name: t for file in files for name, t in load_file(checkpoint(0, shards=3) / file).items()}
    single = load_file(checkpoint(0) / "model.safetensors")
    assert sharded.keys() == single.keys() == index["weight_map"].keys()
    assert all(torch.equal(sharded[name], tensor) for name, tensor in single.items())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in single.values())


@pytest.mark.parametrize(
    ("spelling", "gain", "direction"),
    [
        ("legacy", "weight_g", "weight_v"),
        ("parametrized", "parametrizations.weight.original0", "parametrizations.weight.original1"),
    ],
)
def test_weight_norm_folds_back_to_the_plain_weight(
    checkpoint: Build, spelling: str, gain: str, direction: str
) -> None:
    plain = load_file(checkpoint(0) / "model.safetensors")
    spelled = load_file(checkpoint(0, weight_norm=spelling) / "model.safetensors")
    names = vocoder_convolutions(ModelConfig.from_folder(checkpoint(0)))
    assert len(spelled) == len(plain) + len(names)
    for name in names:
        g, v = spelled[f"{name}.{gain}"], spelled[f"{name}.{direction}"]
        assert tuple(g.shape) == (v.shape[0], 1, 1)
        folded = g * v / torch.linalg.vector_norm(v, dim=(1, 2), keepdim=True)
        torch.testing.assert_close(folded, plain[f"{name}.weight"], rtol=WEIGHT_NORM_RTOL, atol=0.0)


def test_tied_tensors_can_have_any_of_their_names(checkpoint: Build) -> None:
    folder = checkpoint(0, shared_names=SHARED_NAMES[1:], unit_names=UNIT_NAMES[1:])
    names = load_file(folder / "model.safetensors").keys()
    assert not {SHARED_NAMES[0], UNIT_NAMES[0]} & names
    assert {*SHARED_NAMES[1:], *UNIT_NAMES[1:]} <= names


def test_underscored_language_maps_mean_the_same(checkpoint: Build) -> None:
    folder = checkpoint(0, underscored_maps=True)
    raw = json.loads((folder / "generation_config.json").read_text())
    assert all(code.startswith("__") for code in raw["text_decoder_lang_to_code_id"])
    assert ModelConfig.from_folder(folder) == ModelConfig.from_folder(checkpoint(0))


@pytest.mark.parametrize("seed", range(6))
def test_texts_vary_with_the_input_and_end_by_themselves(checkpoint: Build, seed: int) -> None:
    reference = oracle.load(checkpoint(seed))
    texts = [reference.text(request).tokens for request in speech_requests(6) + text_requests(6)]
    assert len(set(map(tuple, texts))) >= 8
    assert sum(text[-1] == 3 for text in texts) >= 4
    assert sum(5 <= len(text) for text in texts) >= 4
    words = [token for text in texts for token in text]
    assert len(set(words)) >= 20
    assert not {0, 2} & set(words)


def test_target_language_and_beams_change_the_text(checkpoint: Build) -> None:
    reference = oracle.load(checkpoint(1))
    by_language = {tuple(reference.text(Request("t2tt", code, text=CORPUS[0], src_lang="eng")).tokens)
                   for code in reference.languages}  # fmt: skip
    assert len(by_language) >= 5
    beams = [reference.text(request, DecodingParams(num_beams=4)) for request in text_requests(4)]
    assert any(b.tokens != reference.text(r).tokens for b, r in zip(beams, text_requests(4), strict=True))
    assert all(b.score is not None and b.score < 0 for b in beams)


@pytest.mark.parametrize("seed", range(3))
def test_speech_has_units_of_the_vocoder_and_audible_samples(checkpoint: Build, seed: int) -> None:
    reference = oracle.load(checkpoint(seed))
    config = ModelConfig.from_folder(checkpoint(seed))
    results = [reference.speech(request) for request in speech_requests(3) + text_requests(3)]
    spoken = [result for result in results if result.units]
    assert len(spoken) >= 3
    for result in spoken:
        assert set(result.units) <= {1, 2, *range(4, 4 + config.unit_hifi_gan_vocab_size)}
        assert result.waveform.dtype == np.float32
        assert len(result.waveform) % config.samples_per_frame == 0
        assert len(result.waveform) >= len(result.units) * config.samples_per_frame
        assert 0.005 < result.waveform.std() < 0.7
    assert len({unit for result in spoken for unit in result.units}) >= 20
    frames = sum(len(result.waveform) for result in spoken) / config.samples_per_frame
    assert 1.05 < frames / sum(len(result.units) for result in spoken) < 3.0


@pytest.mark.parametrize("frames", range(16, 24))
def test_clips_have_the_asked_number_of_frames(checkpoint: Build, frames: int) -> None:
    features, mask = oracle.load(checkpoint(0)).features(audio.clip_of_frames(frames, frames))
    assert features.shape[1] == (frames + 1) // 2
    assert int(mask.sum()) == frames // 2


def test_unwritten_memory_of_our_packages_is_poisoned() -> None:
    namespace: dict[str, object] = {"__name__": "seamless_engine.somewhere", "torch": torch}
    exec("a = torch.empty(3); b = torch.ones(2).new_empty(4, dtype=torch.int32)", namespace)
    assert torch.isnan(namespace["a"]).all()  # pyright: ignore[reportArgumentType]
    assert namespace["b"].tolist() == [2**31 - 1] * 4  # pyright: ignore[reportAttributeAccessIssue]


def test_tolerance_is_an_ulp_and_what_independent_roundings_add_up_to() -> None:
    exact, ulp = torch.full((4,), 1.0, dtype=torch.float64), torch.finfo(torch.float32).eps
    assert_close_to_fp64(exact.float() + ulp, exact, terms=0)
    with pytest.raises(AssertionError, match="4 of 4 elements"):
        assert_close_to_fp64(exact.float() + 2 * ulp, exact, terms=0)
    assert_close_to_fp64(exact.float() + 20 * ulp, exact, terms=100)  # 4 · sqrt(100) halves of an ulp
    with pytest.raises(AssertionError):
        assert_close_to_fp64(exact.float() + 22 * ulp, exact, terms=100)
    half = exact.to(torch.bfloat16)
    assert_close_to_fp64(half + 2.0**-6, exact, terms=100, dtype=torch.bfloat16, narrow=1)
    with pytest.raises(AssertionError):
        assert_close_to_fp64(half + 2.0**-6, exact, terms=100, dtype=torch.bfloat16)
    with pytest.raises(AssertionError):
        assert_close_to_fp64(exact.float(), exact, terms=0, dtype=torch.bfloat16)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_tolerance_wants_nan_and_infinities_at_the_same_places(value: float) -> None:
    reference = torch.tensor([0.0, value])
    with pytest.raises(AssertionError, match="other places"):
        assert_close_to_fp64(reference, torch.zeros(2, dtype=torch.float64), terms=1)
    assert_close_to_fp64(reference, reference.double(), terms=1)
