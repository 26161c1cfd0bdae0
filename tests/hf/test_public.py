"""Properties that transformers' own tests check, for the drop-in classes: generation, determinism, batching, dtypes.

Left out are tests of training, gradients, hooks, attention maps, resized embeddings and caches, which are refused here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import set_seed

from seamless_engine import hf
from support.audio import clip_of_frames
from support.hf import SPOKEN, item, ours, speech, text, theirs, tokens
from support.parity import TEXTS
from tolerance import assert_model_close

Checkpoint = Callable[..., Path]
SPEECH_IN = ("SeamlessM4Tv2Model", "SeamlessM4Tv2ForSpeechToSpeech", "SeamlessM4Tv2ForSpeechToText")
TEXT_IN = ("SeamlessM4Tv2Model", "SeamlessM4Tv2ForTextToSpeech", "SeamlessM4Tv2ForTextToText")
CASES = [*((name, True) for name in SPEECH_IN), *((name, False) for name in TEXT_IN)]
PROMPT = torch.tensor([[3, 50, 40, 60]] * 2)
every_class = pytest.mark.parametrize(("name", "listens"), CASES)


def batch_of(folder: Path, listens: bool) -> dict[str, torch.Tensor]:
    """Two inputs of different lengths, padded."""
    if listens:
        return speech(folder, clip_of_frames(3, 60), clip_of_frames(4, 147))
    return text(folder, *TEXTS[2:4])


def first(output: Any) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]


@every_class
def test_forward_gives_logits_with_and_without_a_mask(checkpoint: Checkpoint, name: str, listens: bool) -> None:
    folder = checkpoint(0)
    batch, model = batch_of(folder, listens), ours(name, folder)
    masked = model(**batch, decoder_input_ids=PROMPT)
    full = model(**{key: value for key, value in batch.items() if key != "attention_mask"}, decoder_input_ids=PROMPT)
    for output in (masked, full):
        assert output.logits.shape == (2, 4, model.config.vocab_size) and output.logits.isfinite().all()


@every_class
def test_forward_is_deterministic_and_does_not_depend_on_the_batch(
    checkpoint: Checkpoint, name: str, listens: bool
) -> None:
    folder = checkpoint(0)
    batch, model = batch_of(folder, listens), ours(name, folder)
    with torch.no_grad():
        together, again = (model(**batch, decoder_input_ids=PROMPT).logits for _ in range(2))
    assert torch.equal(together, again)
    for index in range(2):
        alone = model(**item(batch, index), decoder_input_ids=PROMPT[:1]).logits
        assert torch.equal(alone[0], together[index])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_class
def test_forward_computes_in_the_dtype_of_the_model(
    checkpoint: Checkpoint, name: str, listens: bool, dtype: torch.dtype
) -> None:
    folder = checkpoint(0)
    loaded = loaded_in(name, folder, dtype)
    assert loaded.dtype == dtype and {weight.dtype for weight in loaded.parameters()} == {dtype}
    inputs = item(batch_of(folder, listens), 1)
    with torch.no_grad():
        expected = theirs(name, folder)(**inputs, decoder_input_ids=PROMPT[:1]).logits
    assert_model_close(loaded(**inputs, decoder_input_ids=PROMPT[:1]).logits, expected, dtype)


@functools.cache
def loaded_in(name: str, folder: Path, dtype: torch.dtype) -> Any:
    return getattr(hf, name).from_pretrained(folder, device="cpu", dtype=dtype)


@every_class
def test_state_dict_of_a_class_equals_that_of_the_full_model(checkpoint: Checkpoint, name: str, listens: bool) -> None:
    folder = checkpoint(0)
    full = ours("SeamlessM4Tv2Model", folder).state_dict()
    for key, weight in ours(name, folder).state_dict().items():
        assert torch.equal(weight, full[key]), key


def test_generate_refuses_speech_in_a_language_that_is_only_written(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    model = ours("SeamlessM4Tv2Model", folder)
    batch = batch_of(folder, listens=False) | {"num_beams": 2, "do_sample": True}
    written = set(model.engine.languages("t2tt")) - set(model.engine.languages("t2st"))
    assert written
    for language in sorted(written)[:2]:
        with pytest.raises(ValueError, match=language):
            model.generate(**batch, tgt_lang=language)
        assert model.generate(**batch, tgt_lang=language, generate_speech=False).sequences.shape[0] == 2
    model.generate(**batch, tgt_lang=SPOKEN)


@every_class
def test_generate_of_a_class_samples_what_the_full_model_samples(
    checkpoint: Checkpoint, name: str, listens: bool
) -> None:
    folder = checkpoint(0)
    batch = batch_of(folder, listens) | {"tgt_lang": SPOKEN, "num_beams": 2, "do_sample": True}
    has_speech = not name.endswith("ToText")
    set_seed(42)
    dedicated = ours(name, folder).generate(**batch)
    set_seed(42)
    full = ours("SeamlessM4Tv2Model", folder).generate(**batch, generate_speech=has_speech)
    assert torch.equal(first(dedicated), first(full))
    if has_speech:
        assert torch.equal(dedicated[1], full[1])


@pytest.mark.filterwarnings("ignore:.*units that the vocoder does not have")
@every_class
def test_generate_returns_every_sequence(checkpoint: Checkpoint, name: str, listens: bool) -> None:
    folder = checkpoint(0)
    options = {"num_beams": 3, "do_sample": True, "temperature": 0.5, "num_return_sequences": 3, "max_new_tokens": 8}
    output = ours(name, folder).generate(**batch_of(folder, listens), tgt_lang=SPOKEN, **options)
    assert first(output).shape[0] == 3 * 2


@pytest.mark.parametrize("name", ["SeamlessM4Tv2ForTextToText", "SeamlessM4Tv2ForSpeechToText"])
def test_generate_of_a_class_in_half_precision_equals_the_full_model(checkpoint: Checkpoint, name: str) -> None:
    folder = checkpoint(0)
    inputs = item(batch_of(folder, "ForSpeech" in name), 0)
    scored = {"tgt_lang": "eng", "return_dict_in_generate": True, "output_scores": True}
    dedicated = loaded_in(name, folder, torch.float16).generate(**inputs, **scored)
    full = loaded_in("SeamlessM4Tv2Model", folder, torch.float16).generate(**inputs, **scored, generate_speech=False)
    assert list(dedicated) == list(full)
    assert torch.equal(dedicated.sequences, full.sequences)
    assert torch.equal(dedicated.token_logprobs, full.token_logprobs)


@pytest.mark.parametrize("search", [{}, {"num_beams": 2}, {"num_beams": 2, "num_return_sequences": 2}], ids=str)
def test_generate_accepts_eos_token_id_as_a_list_and_return_dict(
    checkpoint: Checkpoint, search: dict[str, Any]
) -> None:
    folder = checkpoint(0)
    model = ours("SeamlessM4Tv2ForTextToText", folder)
    batch = batch_of(folder, listens=False) | {"tgt_lang": SPOKEN} | search
    plain = model.generate(**batch)
    assert torch.equal(model.generate(**batch, eos_token_id=[3]), plain)
    for options in ({}, {"output_scores": True}):
        output = model.generate(**batch, return_dict_in_generate=True, **options)
        assert torch.equal(output.sequences, plain)
        assert ("sequences_scores" in output) is ("num_beams" in search)


def test_generate_keeps_min_and_max_new_tokens(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    model = ours("SeamlessM4Tv2ForTextToText", folder)
    batch = batch_of(folder, listens=False) | {"tgt_lang": SPOKEN}
    for options in ({}, {"num_beams": 3}, {"do_sample": True}):
        exact = model.generate(**batch, **options, min_new_tokens=7, max_new_tokens=7)
        assert exact.shape == (2, 2 + 7)
        assert all(3 not in ids[2:-1] for ids in tokens(exact))
