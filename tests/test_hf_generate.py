"""`generate` of the drop-in classes: transformers' results at batch size 1, batch-invariant."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig
from transformers.models.seamless_m4t_v2.modeling_seamless_m4t_v2 import format_speech_generation_kwargs

from seamless_engine import SeamlessError, UsageError
from seamless_engine.hf.arguments import split_sides
from support.audio import clip, clip_of_frames
from support.hf import SPOKEN, item, ours, speech, text, theirs, tokens, vocoder_units
from support.parity import TEXTS
from tolerance import SCORE_ATOL, assert_waveform_close

Checkpoint = Callable[[int], Path]
TEXT_CLASSES = ("SeamlessM4Tv2ForSpeechToText", "SeamlessM4Tv2ForTextToText")
SPEECH_CLASSES = ("SeamlessM4Tv2ForSpeechToSpeech", "SeamlessM4Tv2ForTextToSpeech")
SEARCHES: tuple[dict[str, Any], ...] = ({}, {"num_beams": 3, "length_penalty": 0.6})


def inputs_of(name: str, folder: Path) -> list[dict[str, torch.Tensor]]:
    """Three inputs of batch size 1 for a class; the second clip ends in half a frame."""
    if "ForSpeech" in name:
        return [speech(folder, clip_of_frames(seed, frames)) for seed, frames in ((3, 128), (4, 147), (5, 90))]
    return [text(folder, sentence) for sentence in TEXTS[:3]]


@pytest.mark.parametrize("search", SEARCHES, ids=["greedy", "beams"])
@pytest.mark.parametrize("name", TEXT_CLASSES)
@pytest.mark.parametrize("seed", range(3))
def test_generate_text_equals_transformers(
    checkpoint: Checkpoint, seed: int, name: str, search: dict[str, Any]
) -> None:
    folder = checkpoint(seed)
    for inputs in inputs_of(name, folder):
        expected = theirs(name, folder).generate(**inputs, tgt_lang=SPOKEN, **search)
        found = ours(name, folder).generate(**inputs, tgt_lang=SPOKEN, **search)
        assert found.dtype == torch.int64
        assert torch.equal(found, expected)


@pytest.mark.parametrize("search", SEARCHES, ids=["greedy", "beams"])
@pytest.mark.parametrize("name", SPEECH_CLASSES)
@pytest.mark.parametrize("seed", range(3))
def test_generate_speech_equals_transformers(
    checkpoint: Checkpoint, seed: int, name: str, search: dict[str, Any]
) -> None:
    folder = checkpoint(seed)
    spoken = 0
    for inputs in inputs_of(name, folder):
        arguments = inputs | search | {"tgt_lang": f"__{SPOKEN}__", "speaker_id": 1}
        waveform, lengths = ours(name, folder).generate(**arguments)
        assert waveform.shape == (1, int(lengths)) and lengths.dtype == torch.int64
        if int(lengths) == 0:
            with pytest.raises(RuntimeError, match="Kernel size"):  # for a text without characters
                theirs(name, folder).generate(**arguments)
            continue
        spoken += 1
        expected = theirs(name, folder).generate(**arguments, return_intermediate_token_ids=True)
        assert lengths.shape == expected.waveform_lengths.shape == ()
        assert_waveform_close(waveform, expected.waveform)
        found = ours(name, folder).generate(**arguments, return_intermediate_token_ids=True)
        assert list(found) == list(expected)
        assert torch.equal(found.waveform, waveform)
        assert torch.equal(found["sequences"], expected.sequences)
        assert torch.equal(vocoder_units(found[3]), vocoder_units(expected.unit_sequences))
    assert spoken


@pytest.mark.parametrize("name", [*TEXT_CLASSES, *SPEECH_CLASSES])
def test_generate_of_the_full_model_equals_the_dedicated_class(checkpoint: Checkpoint, name: str) -> None:
    folder = checkpoint(1)
    has_speech = name in SPEECH_CLASSES
    for inputs in inputs_of(name, folder):
        dedicated = ours(name, folder).generate(**inputs, tgt_lang=SPOKEN)
        model = ours("SeamlessM4Tv2Model", folder).generate(**inputs, tgt_lang=SPOKEN, generate_speech=has_speech)
        assert torch.equal(model[0], dedicated[0] if has_speech else dedicated)


def test_generate_returns_the_beams_of_transformers(checkpoint: Checkpoint) -> None:
    folder = checkpoint(2)
    arguments = {"tgt_lang": SPOKEN, "generate_speech": False, "num_beams": 4, "num_return_sequences": 3}
    batch = text(folder, *TEXTS[:2])
    found = ours("SeamlessM4Tv2Model", folder).generate(**batch, **arguments)
    for index in range(2):
        alone = theirs("SeamlessM4Tv2Model", folder).generate(**item(batch, index), **arguments)
        mine = slice(3 * index, 3 * index + 3)
        assert tokens(found.sequences[mine]) == tokens(alone.sequences)
        torch.testing.assert_close(found.sequences_scores[mine], alone.sequences_scores, atol=SCORE_ATOL, rtol=0.0)


def test_generate_speaks_every_sequence_of_a_sentence(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    model = ours("SeamlessM4Tv2ForTextToSpeech", folder)
    batch = text(folder, *TEXTS[:2])
    arguments = {"tgt_lang": SPOKEN, "num_beams": 3, "return_intermediate_token_ids": True}
    one = model.generate(**batch, **arguments)
    two = model.generate(**batch, **arguments, num_return_sequences=2)
    assert two.waveform.shape[0] == two.sequences.shape[0] == two.unit_sequences.shape[0] == 4
    assert tokens(two.sequences[::2]) == tokens(one.sequences)
    for best, length, expected in zip(two.waveform[::2], two.waveform_lengths[::2], one.waveform, strict=True):
        assert torch.equal(best[:length], expected[:length])


def test_generate_of_padded_clips_equals_each_clip_alone(checkpoint: Checkpoint) -> None:
    folder = checkpoint(1)
    model = ours("SeamlessM4Tv2Model", folder)
    clips = [clip_of_frames(seed, frames) for seed, frames in enumerate((50, 147, 31, 64, 99, 33, 2))]
    together = model.generate(**speech(folder, *clips), tgt_lang=SPOKEN, return_intermediate_token_ids=True)
    for index, samples in enumerate(clips):
        alone = model.generate(**speech(folder, samples), tgt_lang=SPOKEN, return_intermediate_token_ids=True)
        size, length = alone.sequences.shape[1], int(alone.waveform_lengths)
        assert torch.equal(together.sequences[index, :size], alone.sequences[0])
        assert not together.sequences[index, size:].any()
        assert together.waveform_lengths[index] == length
        assert torch.equal(together.waveform[index, :length], alone.waveform[0])
        assert not together.waveform[index, length:].any()
        assert torch.equal(together.unit_sequences[index, : alone.unit_sequences.shape[1]], alone.unit_sequences[0])


def test_generate_of_padded_texts_equals_each_text_alone(checkpoint: Checkpoint) -> None:
    folder = checkpoint(2)
    model = ours("SeamlessM4Tv2ForTextToText", folder)
    batch = text(folder, *TEXTS)
    assert not batch["attention_mask"].all()
    together = model.generate(**batch, tgt_lang=SPOKEN, num_beams=2)
    for index, sentence in enumerate(TEXTS):
        alone = model.generate(**text(folder, sentence), tgt_lang=SPOKEN, num_beams=2)
        assert torch.equal(together[index, : alone.shape[1]], alone[0])


def test_generate_accepts_padding_on_the_left_or_without_a_mask(checkpoint: Checkpoint) -> None:
    folder = checkpoint(2)
    model = ours("SeamlessM4Tv2ForTextToText", folder)
    batch = text(folder, *TEXTS[:3])
    expected = model.generate(**batch, tgt_lang=SPOKEN)
    assert torch.equal(model.generate(batch["input_ids"], SPOKEN), expected)
    lengths = batch["attention_mask"].sum(1).tolist()
    left = {
        name: torch.stack([tensor.roll(-int(length)) for tensor, length in zip(values, lengths, strict=True)])
        for name, values in batch.items()
    }
    assert torch.equal(model.generate(**left, tgt_lang=SPOKEN), expected)


def test_generate_without_a_mask_reads_every_frame_as_transformers(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    features = speech(folder, clip_of_frames(4, 147))["input_features"]
    name = "SeamlessM4Tv2ForSpeechToText"
    expected = theirs(name, folder).generate(features, tgt_lang=SPOKEN)
    assert torch.equal(ours(name, folder).generate(features, tgt_lang=SPOKEN), expected)
    assert torch.equal(ours(name, folder).generate(inputs=features, tgt_lang=SPOKEN), expected)


def test_generate_accepts_a_prompt_with_a_language_for_each_input(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    model = ours("SeamlessM4Tv2ForTextToText", folder)
    ids = model.generation_config.text_decoder_lang_to_code_id
    batch = text(folder, TEXTS[0], TEXTS[0])
    prompts = torch.tensor([[ids["fra"]], [ids["deu"]]])
    for prompt in (prompts, torch.cat([torch.full((2, 1), 3), prompts], dim=1)):
        found = model.generate(**batch, decoder_input_ids=prompt)
        for index, code in enumerate(("fra", "deu")):
            assert tokens(found)[index] == tokens(model.generate(**item(batch, index), tgt_lang=code))[0]
    with pytest.raises(UsageError, match="give one of them"):
        model.generate(**batch, decoder_input_ids=prompts, tgt_lang="fra")
    with pytest.raises(UsageError, match="decoder_input_ids"):
        model.generate(**batch, decoder_input_ids=torch.tensor([[3, 5, 6]] * 2))


ARGUMENTS = ("do_sample", "temperature", "num_beams", "top_k")
NAMES = [*ARGUMENTS, *(f"text_{name}" for name in ARGUMENTS), "speech_do_sample", "speech_temperature"]


@given(st.lists(st.tuples(st.sampled_from([*NAMES, "generation_config"]), st.integers(0, 9))))
def test_split_sides_equals_transformers(pairs: list[tuple[str, int]]) -> None:
    kwargs = dict(pairs)  # in any order
    their_text, their_speech = format_speech_generation_kwargs(kwargs)
    text_side, speech_side = split_sides(kwargs)
    assert text_side == their_text
    assert speech_side == {name: their_speech[name] for name in ("do_sample", "temperature") if name in their_speech}


def test_split_sides_prefers_an_argument_with_a_prefix(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    model = ours("SeamlessM4Tv2Model", folder)
    inputs = text(folder, TEXTS[0]) | {"tgt_lang": SPOKEN, "return_intermediate_token_ids": True}
    greedy, beams = (model.generate(**inputs, num_beams=beams).sequences for beams in (1, 4))
    assert not torch.equal(greedy, beams)
    assert torch.equal(model.generate(**inputs, num_beams=1, text_num_beams=4).sequences, beams)
    assert torch.equal(model.generate(**inputs, text_num_beams=1, num_beams=4).sequences, greedy)
    with pytest.raises(UsageError, match="speech_num_beams"):
        model.generate(**inputs, speech_num_beams=4)


@pytest.mark.filterwarnings("ignore:.*units that the vocoder does not have")
def test_generate_samples_speech_apart_from_text_and_only_at_another_temperature(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    model = ours("SeamlessM4Tv2ForTextToSpeech", folder)
    inputs = text(folder, TEXTS[1]) | {"tgt_lang": SPOKEN, "return_intermediate_token_ids": True}
    plain = model.generate(**inputs)
    assert torch.equal(model.generate(**inputs, speech_do_sample=True).waveform, plain.waveform)
    torch.manual_seed(0)
    sampled, other = (model.generate(**inputs, speech_do_sample=True, speech_temperature=3.0) for _ in range(2))
    torch.manual_seed(0)
    again = model.generate(**inputs, speech_do_sample=True, speech_temperature=3.0)
    assert torch.equal(sampled.sequences, plain.sequences)
    assert torch.equal(sampled.unit_sequences, again.unit_sequences) and torch.equal(sampled.waveform, again.waveform)
    assert not torch.equal(sampled.unit_sequences, plain.unit_sequences)
    assert not torch.equal(sampled.unit_sequences, other.unit_sequences)


def test_generate_samples_each_input_independently_and_repeats_with_a_seed(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    model = ours("SeamlessM4Tv2ForTextToText", folder)
    batch = text(folder, *[TEXTS[0]] * 4)
    arguments = {"tgt_lang": SPOKEN, "do_sample": True, "temperature": 1.5, "num_return_sequences": 2}
    torch.manual_seed(5)
    sampled = model.generate(**batch, **arguments)
    torch.manual_seed(5)
    assert torch.equal(model.generate(**batch, **arguments), sampled)
    assert len({tuple(ids) for ids in tokens(sampled)}) > 4
    beams = model.generate(**batch, tgt_lang=SPOKEN, num_beams=4, do_sample=True)
    assert beams.shape[0] == 4


def test_generate_scores_equal_transformers(checkpoint: Checkpoint) -> None:
    folder = checkpoint(1)
    name = "SeamlessM4Tv2ForTextToText"
    arguments = {"tgt_lang": SPOKEN, "return_dict_in_generate": True, "output_scores": True}
    for inputs in inputs_of(name, folder):
        model = theirs(name, folder)
        expected = model.generate(**inputs, **arguments)
        steps = model.compute_transition_scores(expected.sequences, expected.scores, normalize_logits=True)
        found = ours(name, folder).generate(**inputs, **arguments)
        torch.testing.assert_close(found.token_logprobs, steps, atol=SCORE_ATOL, rtol=0.0)
        assert found.sequences_scores is None and "sequences_scores" not in found
        beams = ours(name, folder).generate(**inputs, **arguments, num_beams=3)
        wanted = model.generate(**inputs, **arguments, num_beams=3)
        torch.testing.assert_close(beams.sequences_scores, wanted.sequences_scores, atol=SCORE_ATOL, rtol=0.0)


def test_generate_takes_defaults_from_generation_config(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    model = ours("SeamlessM4Tv2ForTextToText", folder)
    inputs = text(folder, TEXTS[0]) | {"tgt_lang": SPOKEN}
    greedy, beams = (model.generate(**inputs, num_beams=count) for count in (1, 4))
    own = copy.copy(model.generation_config)
    own.num_beams = 4
    loaded = GenerationConfig.from_pretrained(folder)
    loaded.num_beams = 4
    for config in (GenerationConfig(num_beams=4), {"num_beams": 4}, own, loaded):
        assert torch.equal(model.generate(**inputs, generation_config=config), beams)
        assert torch.equal(model.generate(**inputs, generation_config=config, num_beams=1), greedy)
    with pytest.raises(UsageError, match="min_p"):
        model.generate(**inputs, generation_config=GenerationConfig(min_p=0.1))
    with pytest.raises(UsageError, match="num_beems"):
        model.generate(**inputs, generation_config={"num_beems": 4})


def test_generation_config_of_the_model_can_be_changed(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    model = copy.copy(ours("SeamlessM4Tv2ForTextToText", folder))
    model.generation_config = copy.copy(model.generation_config)
    inputs = text(folder, TEXTS[0]) | {"tgt_lang": SPOKEN}
    model.generation_config.max_new_tokens = 2
    assert model.generate(**inputs).shape == (1, 4)
    model.generation_config.guidance_scale = 2.0
    with pytest.raises(UsageError, match="guidance_scale"):
        model.generate(**inputs)


def test_generate_gives_no_samples_for_a_text_without_characters(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    model = ours("SeamlessM4Tv2Model", folder)
    waveform, lengths = model.generate(**text(folder, TEXTS[0]), tgt_lang=SPOKEN, max_new_tokens=1)
    assert waveform.shape == (1, 0) and lengths.shape == () and int(lengths) == 0
    waveform, lengths = model.generate(**text(folder, *TEXTS[:2]), tgt_lang=SPOKEN, max_new_tokens=1)
    assert waveform.shape == (2, 0) and lengths.tolist() == [0, 0]


def test_generate_warns_of_input_without_a_source_language(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    inputs = text(folder, TEXTS[0])
    inputs["input_ids"][0, 0] = 1  # as the tokenizer does for src_lang="xxx"
    with pytest.warns(UserWarning, match="src_lang"):
        ours("SeamlessM4Tv2ForTextToText", folder).generate(**inputs, tgt_lang=SPOKEN)


def test_generate_counts_the_prompt_in_lengths_as_transformers(checkpoint: Checkpoint) -> None:
    folder = checkpoint(1)
    name = "SeamlessM4Tv2ForTextToText"
    for inputs in inputs_of(name, folder):
        for lengths in ({"min_length": 9}, {"min_new_tokens": 9}, {"min_length": 5, "min_new_tokens": 9}):
            expected = theirs(name, folder).generate(**inputs, tgt_lang=SPOKEN, **lengths)
            assert torch.equal(ours(name, folder).generate(**inputs, tgt_lang=SPOKEN, **lengths), expected)


@pytest.mark.parametrize(
    "search",
    [
        {"repetition_penalty": 1.7},
        {"no_repeat_ngram_size": 1},
        {"do_sample": True, "top_k": 1},
        {"num_beams": 3, "early_stopping": True, "length_penalty": 2.0},
        {"num_beams": 3, "early_stopping": "never", "repetition_penalty": 0.6},
        {"num_beams": 3, "no_repeat_ngram_size": 2, "max_new_tokens": 9, "min_new_tokens": 6},
    ],
    ids=lambda search: "-".join(search),
)
def test_generate_equals_transformers_for_every_kind_of_search(checkpoint: Checkpoint, search: dict[str, Any]) -> None:
    folder = checkpoint(1)
    name = "SeamlessM4Tv2ForTextToText"
    for inputs in inputs_of(name, folder):
        expected = theirs(name, folder).generate(**inputs, tgt_lang=SPOKEN, **search)
        assert torch.equal(ours(name, folder).generate(**inputs, tgt_lang=SPOKEN, **search), expected)


def test_generate_with_bad_words_equals_transformers(checkpoint: Checkpoint) -> None:
    folder = checkpoint(1)
    name = "SeamlessM4Tv2ForTextToText"
    for inputs in inputs_of(name, folder):
        words = theirs(name, folder).generate(**inputs, tgt_lang=SPOKEN)[0, 2:].tolist()
        for bad in ({"bad_words_ids": [words[:2], words[2:3] or [9]]}, {"suppress_tokens": words[:1]}):
            expected = theirs(name, folder).generate(**inputs, tgt_lang=SPOKEN, num_beams=2, **bad)
            assert torch.equal(ours(name, folder).generate(**inputs, tgt_lang=SPOKEN, num_beams=2, **bad), expected)


def test_generate_warns_of_arguments_without_effect_as_transformers(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    model = ours("SeamlessM4Tv2ForTextToText", folder)
    inputs = text(folder, TEXTS[0]) | {"tgt_lang": SPOKEN}
    expected = model.generate(**inputs)
    for arguments in ({"temperature": 0.0}, {"top_k": 5}, {"max_length": 4}):
        with pytest.warns(UserWarning, match=next(iter(arguments))) as caught:
            assert torch.equal(model.generate(**inputs, **arguments), expected)
        assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.generate(**inputs, temperature=1.0, top_k=50, do_sample=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": None}, "input_ids is missing"),
        ({"input_ids": torch.tensor([5, 6, 3])}, "2-dimensional"),
        ({"input_ids": torch.tensor([[5, 100_000, 3]])}, "vocabulary"),
        ({"input_ids": torch.zeros(1, 4, dtype=torch.int64), "attention_mask": None}, "nothing but padding"),
        ({"attention_mask": torch.tensor([[1, 1]])}, "attention_mask has shape"),
        ({"tgt_lang": None}, "tgt_lang is missing"),
        ({"tgt_lang": "xxx"}, "xxx"),
        ({"num_beams": 0}, "num_beams"),
        ({"num_return_sequences": 2}, "num_return_sequences"),
        ({"num_beam": 2}, "did you mean 'num_beams'"),
        ({"soft_max_length": (1, 200)}, "DecodingParams"),
        ({"text_num_beams": 2}, "text_num_beams"),
    ],
)
def test_generate_refuses_wrong_calls_with_advice(checkpoint: Checkpoint, change: dict[str, Any], message: str) -> None:
    folder = checkpoint(0)
    inputs = text(folder, TEXTS[0]) | {"tgt_lang": SPOKEN}
    with pytest.raises(UsageError, match=message):
        ours("SeamlessM4Tv2ForTextToText", folder).generate(**(inputs | change))


def test_generate_refuses_wrong_input_features_with_advice(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    model = ours("SeamlessM4Tv2Model", folder)
    batch = speech(folder, clip(1), clip(2))
    with pytest.raises(UsageError, match="one of the two"):
        model.generate(**batch, input_ids=torch.tensor([[5, 3]]), tgt_lang=SPOKEN)
    with pytest.raises(UsageError, match="one of the two"):
        model.generate(tgt_lang=SPOKEN)
    mask = batch["attention_mask"].clone()
    mask[0, 0] = 0
    with pytest.raises(UsageError, match="on the right"):
        model.generate(input_features=batch["input_features"], attention_mask=mask, tgt_lang=SPOKEN)
    with pytest.raises(UsageError, match="35 ms"):
        model.generate(input_features=batch["input_features"], attention_mask=0 * mask, tgt_lang=SPOKEN)
    with pytest.raises(UsageError, match="frames of 80 values"):
        model.generate(input_features=batch["input_features"][..., :80], tgt_lang=SPOKEN)
    with pytest.raises(UsageError, match="speaker_id"):
        model.generate(**batch, tgt_lang=SPOKEN, speaker_id=1000)


def test_generate_raises_the_error_of_an_input_with_its_index(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    batch = speech(folder, clip(1), clip(2))
    batch["input_features"][1] = float("nan")
    with pytest.raises(SeamlessError, match="row 1 of the batch"):
        ours("SeamlessM4Tv2ForSpeechToText", folder).generate(**batch, tgt_lang=SPOKEN)
