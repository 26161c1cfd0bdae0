"""The model as a torch module: moving it, counting and reading its weights, compiling it."""

from __future__ import annotations

import copy
import io
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from seamless_engine import UsageError, hf
from support.hf import SPOKEN, ours, text, theirs
from support.parity import TEXTS

Checkpoint = Callable[..., Path]
NAMES = ("SeamlessM4Tv2Model", "SeamlessM4Tv2ForSpeechToText", "SeamlessM4Tv2ForTextToSpeech")


def fresh(folder: Path, **arguments: Any) -> Any:
    """A model for this test only."""
    return hf.SeamlessM4Tv2ForTextToText.from_pretrained(folder, device="cpu", **arguments)


def logits(model: Any, folder: Path) -> torch.Tensor:
    return model(**text(folder, TEXTS[0]), decoder_input_ids=torch.tensor([[3, 50, 40]])).logits


def test_to_loads_the_checkpoint_in_another_dtype_at_the_next_use(checkpoint: Checkpoint) -> None:
    folder = checkpoint(2)
    model = fresh(folder)
    before, engine = logits(model, folder), model.engine
    for move, dtype in (
        (lambda: model.half(), torch.float16),
        (lambda: model.to("cpu", torch.bfloat16, non_blocking=True), torch.bfloat16),
    ):
        assert move() is model
        assert model.dtype == next(model.parameters()).dtype == dtype
        assert torch.equal(logits(model, folder), logits(fresh(folder, dtype=dtype), folder))
        assert model.engine.dtype == dtype
    assert torch.equal(logits(model.float(), folder), before)
    assert model.engine is not engine
    for move, dtype in (
        (lambda: model.to(torch.zeros(1, dtype=torch.bfloat16)), torch.bfloat16),
        (lambda: model.type(torch.float16), torch.float16),
        (lambda: model.bfloat16(), torch.bfloat16),
    ):
        assert move().dtype == next(model.parameters()).dtype == dtype
    assert model.to(device=torch.device("cpu"), dtype=torch.float32).engine.dtype == torch.float32


def test_to_the_same_device_and_dtype_does_nothing(checkpoint: Checkpoint) -> None:
    model = fresh(checkpoint(0))
    engine = model.engine
    assert model.eval().train(False).requires_grad_(False).to("cpu").cpu().float().to(torch.float32) is model
    assert model.to(device="cpu", dtype=torch.float32).text_encoder.to("cpu").device == torch.device("cpu")
    assert model.engine is engine and not model.training


def test_to_refuses_a_device_or_dtype_without_support(checkpoint: Checkpoint) -> None:
    model = fresh(checkpoint(0))
    moves: list[tuple[Callable[[], Any], str]] = [
        (lambda: model.to("mps"), "mps"),
        (lambda: model.to("xyz"), "to\\(\\) takes"),
        (model.double, "float64"),
        (lambda: model.to(torch.int64), "dtype"),
        (lambda: model.text_encoder.half(), "of the model"),
        (model.train, "does not train"),
        (model.requires_grad_, "gradients"),
        (model.share_memory, "read-only"),
        (lambda: model.load_state_dict({}), "read-only"),
        (lambda: model.register_forward_hook(print), "hooks"),
        (lambda: model.text_encoder.register_forward_pre_hook(print), "hooks"),
        (lambda: copy.deepcopy(model), "second time"),
        (lambda: pickle.dumps(model), "folder"),
        (lambda: hf.SeamlessM4Tv2Model(hf.SeamlessM4Tv2Config()), "random weights"),
    ]
    if not torch.cuda.is_available():
        moves += [
            (model.cuda, "not available"),
            (lambda: model.to("cuda:0"), "not available"),
            (lambda: model.to(0), "accelerator|not available"),
        ]
    for move, message in moves:
        with pytest.raises(UsageError, match=message):
            move()
    assert model.dtype == torch.float32 and logits(model, checkpoint(0)).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_named_parameters_equal_transformers(checkpoint: Checkpoint, name: str) -> None:
    folder = checkpoint(1)
    model, reference = ours(name, folder), theirs(name, folder)
    found, expected = dict(model.named_parameters()), dict(reference.named_parameters())
    assert found.keys() == expected.keys() and next(iter(found)) == next(iter(expected))
    for key, weight in found.items():
        assert isinstance(weight, torch.nn.Parameter) and not weight.requires_grad
        assert (weight.shape, weight.dtype, weight.device) == (expected[key].shape, torch.float32, model.device)
        assert torch.equal(weight, expected[key])
    state, wanted = model.state_dict(), reference.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[key], wanted[key]) for key in set(state) - set(found))
    assert model.num_parameters() == reference.num_parameters()
    assert model.num_parameters(exclude_embeddings=True) == reference.num_parameters(exclude_embeddings=True)
    assert model.num_parameters(only_trainable=True) == 0
    assert model.get_memory_footprint() == sum(model.engine.weight_bytes.values())
    encoders = [child for child, _ in reference.named_children() if child.endswith("_encoder")]
    assert {child for child, _ in model.named_children()} == set(encoders)
    for child in encoders:
        mine, other = getattr(model, child), getattr(reference, child)
        assert dict(mine.named_parameters()).keys() == dict(other.named_parameters()).keys()
        assert mine.state_dict().keys() == other.state_dict().keys()


def test_stored_weight_moves_with_the_model_and_computes_as_a_tensor(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    model = fresh(folder)
    half = next(model.half().parameters())
    assert half.dtype == torch.float16 and half.element_size() == 2
    weight = next(model.float().parameters())
    plain = next(theirs("SeamlessM4Tv2ForTextToText", folder).parameters()).detach()
    assert torch.equal(weight + 1, plain + 1) and torch.equal(weight[3:5].mean(0), plain[3:5].mean(0))
    assert torch.equal(half, plain.half())
    assert weight.tolist() == plain.tolist() and (weight.numpy() == plain.numpy()).all()
    assert torch.equal(torch.nn.functional.linear(plain[:2], weight), torch.nn.functional.linear(plain[:2], plain))
    assert repr(weight) == repr(torch.nn.Parameter(plain, requires_grad=False)) or "tensor" in repr(weight)
    assert type(copy.deepcopy(weight)) is torch.Tensor and len(weight) == len(plain)
    stored = io.BytesIO()
    torch.save(model.state_dict(), stored)
    stored.seek(0)
    assert torch.equal(torch.load(stored)["lm_head.weight"], plain)


def test_stored_weight_is_read_only(checkpoint: Checkpoint) -> None:
    weight: Any = next(fresh(checkpoint(0)).parameters())
    writes: list[Callable[[], Any]] = [
        lambda: weight.mul_(2),
        lambda: weight.data.fill_(0),
        lambda: weight.detach().zero_(),
        lambda: weight.copy_(torch.zeros(weight.shape)),
        lambda: weight.__setitem__(0, 0.0),
        lambda: weight.__iadd__(1),
        lambda: setattr(weight, "data", torch.zeros(1)),
        lambda: torch.nn.init.normal_(weight),
        lambda: torch.add(weight, 1, out=weight),
        lambda: torch.add(torch.zeros(1), 1, out=weight),
        lambda: torch.max(weight.clone(), 0, out=(weight, torch.empty(0, dtype=torch.int64))),
        lambda: weight.requires_grad_(True),
    ]
    for write in writes:
        with pytest.raises(UsageError, match="read-only"):
            write()
    with pytest.raises(UsageError, match="clone"):
        weight.data_ptr()
    assert torch.equal(torch.add(weight, 1, out=torch.empty(0)), weight + 1)
    assert torch.equal(torch.add(weight, 1, out=None), weight + 1)
    values, places = torch.max(weight, 0, out=(torch.empty(0), torch.empty(0, dtype=torch.int64)))
    assert torch.equal(weight.gather(0, places[None])[0], values)
    weight.requires_grad = False
    assert weight.requires_grad_(False) is weight


def test_torch_compile_leaves_results_equal(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    model = ours("SeamlessM4Tv2ForTextToText", folder)
    module = torch.compile(model)
    assert isinstance(module, torch.nn.Module)
    compiled: Any = module
    inputs = text(folder, TEXTS[0]) | {"tgt_lang": SPOKEN}
    assert torch.equal(compiled.generate(**inputs), model.generate(**inputs))
    assert torch.equal(logits(compiled, folder), logits(model, folder))


def test_classes_have_the_names_and_configurations_of_transformers(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    model, reference = ours("SeamlessM4Tv2Model", folder), theirs("SeamlessM4Tv2Model", folder)
    assert model.name_or_path == reference.name_or_path and model.folder == folder
    assert model.can_generate() is reference.can_generate() is True
    assert model.generation_config.to_dict().items() <= reference.generation_config.to_dict().items()
    assert model.generation_config.num_beams is None is reference.generation_config.num_beams
    config = copy.copy(model.generation_config)
    config.update(num_beams=4)
    assert (config.num_beams, model.generation_config.num_beams) == (4, None)
    assert not hasattr(config, "no_such_field")
    assert [type(module).__name__ for module in model.modules()] == [
        "SeamlessM4Tv2Model",
        "SpeechEncoder",
        "TextEncoder",
    ]
    for name, hint in (
        ("save_pretrained", "model.folder"),
        ("vocoder", "waveform"),
        ("lm_head", "transformers-arguments"),
    ):
        assert not hasattr(model, name)
        with pytest.raises(AttributeError, match=hint):
            getattr(model, name)


def test_generate_equals_transformers_for_a_folder_that_it_saved(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = checkpoint(0)
    theirs("SeamlessM4Tv2Model", folder).save_pretrained(tmp_path)
    shutil.copy(folder / "sentencepiece.bpe.model", tmp_path)
    saved: Any = hf.SeamlessM4Tv2Model.from_pretrained(tmp_path, device="cpu")
    inputs = text(folder, TEXTS[1]) | {"tgt_lang": SPOKEN}
    expected = ours("SeamlessM4Tv2Model", folder).generate(**inputs, return_intermediate_token_ids=True)
    found = saved.generate(**inputs, return_intermediate_token_ids=True)
    assert torch.equal(found.sequences, expected.sequences) and torch.equal(found.waveform, expected.waveform)
