"""The encoders of the drop-in classes: transformers' hidden states at batch size 1, batch-invariant."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from seamless_engine import UsageError, hf
from support.audio import clip_of_frames
from support.hf import ours, speech, text, theirs
from support.parity import TEXTS
from tolerance import assert_model_close

Checkpoint = Callable[..., Path]
FRAMES = (128, 147, 90, 2)  # the second one ends in half a frame


@pytest.mark.parametrize("seed", range(3))
def test_encoder_states_equal_transformers(checkpoint: Checkpoint, seed: int) -> None:
    folder = checkpoint(seed)
    model, reference = ours("SeamlessM4Tv2Model", folder), theirs("SeamlessM4Tv2Model", folder)
    singles = [("text_encoder", text(folder, sentence)) for sentence in TEXTS[:3]]
    singles += [("speech_encoder", speech(folder, clip_of_frames(3, frames))) for frames in FRAMES]
    for name, inputs in singles:
        with torch.no_grad():
            expected = getattr(reference, name)(**inputs).last_hidden_state
        found = getattr(model, name)(**inputs)
        assert list(found) == ["last_hidden_state"] and found[0] is found.last_hidden_state
        assert not found[0].is_inference()
        assert_model_close(found.last_hidden_state, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_encoder_states_have_the_dtype_of_the_model(checkpoint: Checkpoint, dtype: torch.dtype) -> None:
    folder = checkpoint(0)
    model: Any = hf.SeamlessM4Tv2Model.from_pretrained(folder, device="cpu", dtype=dtype)
    inputs = text(folder, TEXTS[1])
    with torch.no_grad():
        expected = theirs("SeamlessM4Tv2Model", folder).text_encoder(**inputs).last_hidden_state
    found = model.text_encoder(**inputs).last_hidden_state
    assert found.dtype == model.text_encoder.dtype == dtype
    assert_model_close(found.float(), expected, dtype)
    features = speech(folder, clip_of_frames(1, 64))
    half = features | {"input_features": features["input_features"].to(dtype)}  # as scripts pass them
    assert model.speech_encoder(**half).last_hidden_state.dtype == dtype


def test_encoder_states_do_not_depend_on_the_batch(checkpoint: Checkpoint) -> None:
    folder = checkpoint(1)
    model = ours("SeamlessM4Tv2Model", folder)
    clips = [clip_of_frames(seed, frames) for seed, frames in enumerate(FRAMES)]
    together = model.speech_encoder(**speech(folder, *clips)).last_hidden_state
    for states, samples in zip(together, clips, strict=True):
        alone = model.speech_encoder(**speech(folder, samples)).last_hidden_state[0]
        assert torch.equal(states[: len(alone)], alone) and not states[len(alone) :].any()
    batch = text(folder, *TEXTS)
    lengths = batch["attention_mask"].sum(1).tolist()
    together = model.text_encoder(**batch).last_hidden_state
    assert torch.equal(model.text_encoder(batch["input_ids"])[0], together)
    for states, sentence, length in zip(together, TEXTS, lengths, strict=True):
        alone = model.text_encoder(**text(folder, sentence)).last_hidden_state[0]
        assert torch.equal(states[:length], alone) and not states[length:].any()
    left = {
        name: torch.stack([value.roll(-int(length)) for value, length in zip(values, lengths, strict=True)])
        for name, values in batch.items()
    }
    for states, other, length in zip(model.text_encoder(**left)[0], together, lengths, strict=True):
        assert torch.equal(states.roll(int(length), 0), other)


def test_get_encoder_gives_the_encoder_of_the_class(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    model = ours("SeamlessM4Tv2Model", folder)
    assert model.get_encoder() is model.get_encoder("text") is model.text_encoder
    assert model.get_encoder("audio") is model.speech_encoder
    assert model.get_encoder().main_input_name == "input_ids"
    listener = ours("SeamlessM4Tv2ForSpeechToText", folder)
    assert listener.get_encoder() is listener.speech_encoder
    assert listener.get_encoder().main_input_name == "input_features"
    assert not hasattr(listener, "text_encoder")
    for modality in ("text", "video"):
        with pytest.raises(UsageError, match=modality):
            listener.get_encoder(modality)


def test_encoders_outlive_the_model_and_move_with_it(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    model: Any = hf.SeamlessM4Tv2ForTextToText.from_pretrained(folder, device="cpu")
    encoder = model.half().get_encoder()
    del model
    assert encoder(**text(folder, TEXTS[0])).last_hidden_state.dtype == encoder.dtype == torch.float16


def test_encoders_use_defaults_for_fields_that_config_json_leaves_out(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint(0), tmp_path / "unset"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": None}), encoding="utf-8")
    model, expected = ours("SeamlessM4Tv2Model", folder), ours("SeamlessM4Tv2Model", checkpoint(0))
    assert model.config.pad_token_id is None
    ids = text(checkpoint(0), *TEXTS[:2])["input_ids"]
    assert torch.equal(model.text_encoder(ids)[0], expected.text_encoder(ids)[0])
    features = speech(checkpoint(0), clip_of_frames(1, 64))
    assert torch.equal(model.speech_encoder(**features)[0], expected.speech_encoder(**features)[0])


@pytest.mark.parametrize("name", ["output_hidden_states", "output_attentions", "inputs_embeds"])
def test_encoders_refuse_arguments_for_other_outputs(checkpoint: Checkpoint, name: str) -> None:
    folder = checkpoint(0)
    model = ours("SeamlessM4Tv2Model", folder)
    for encoder, inputs in (
        (model.text_encoder, text(folder, TEXTS[0])),
        (model.speech_encoder, speech(folder, clip_of_frames(1, 64))),
    ):
        encoder(**inputs, **{name: None}, return_dict=True)
        with pytest.raises(UsageError, match=f"{name}.*last hidden state"):
            encoder(**inputs, **{name: True})
        with pytest.raises(UsageError, match="missing"):
            encoder()
