"""`generate` accepts values without effect in every spelling of scripts, and says where other arguments belong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from seamless_engine import UsageError
from support.hf import SPOKEN, ours, text, theirs
from support.parity import TEXTS
from tolerance import SCORE_ATOL

Checkpoint = Callable[..., Path]
TEXT_TO_TEXT = "SeamlessM4Tv2ForTextToText"
NEUTRAL: dict[str, Any] = {
    "use_cache": True,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "synced_gpus": False,
    "logits_processor": LogitsProcessorList(),
    "stopping_criteria": StoppingCriteriaList(),
    "prefix_allowed_tokens_fn": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "min_p": 0.0,
    "guidance_scale": 1.0,
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "remove_invalid_values": False,
    "renormalize_logits": False,
    "cache_implementation": "dynamic",
    "output_attentions": False,
    "output_hidden_states": False,
    "output_logits": False,
    "return_dict_in_generate": False,
    "output_scores": False,
    "bad_words_ids": None,
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
    "max_time": None,
    "streamer": None,
    "eos_token_id": [3, 2],
    "pad_token_id": np.int64(0),
    "max_new_tokens": None,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "do_sample": np.bool_(False),
    "length_penalty": torch.tensor(1.0),
    "num_beams": np.int32(1),
}


def test_generate_accepts_values_without_effect(checkpoint: Checkpoint, recwarn: pytest.WarningsRecorder) -> None:
    folder = checkpoint(0)
    model = ours("SeamlessM4Tv2Model", folder)
    inputs = text(folder, TEXTS[0]) | {"tgt_lang": SPOKEN}
    expected = model.generate(**inputs)[0]
    assert torch.equal(model.generate(**inputs, **NEUTRAL)[0], expected)
    both = {f"text_{name}": value for name, value in NEUTRAL.items()}
    both |= {f"speech_{name}": value for name, value in NEUTRAL.items() if not name.endswith("_token_id")}
    assert torch.equal(model.generate(**inputs, **both)[0], expected)
    stored = GenerationConfig(eos_token_id=[3, 2], max_new_tokens=None)
    assert torch.equal(model.generate(**inputs, generation_config=stored)[0], expected)
    assert torch.equal(
        model.generate(**inputs, generation_config=GenerationConfig.from_pretrained(folder))[0], expected
    )
    assert not list(recwarn)


def test_generate_accepts_scalars_of_numpy_and_torch(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    model = ours("SeamlessM4Tv2Model", folder)
    inputs = text(folder, TEXTS[1])
    plain: dict[str, Any] = {
        "num_beams": 3,
        "max_new_tokens": 9,
        "length_penalty": 0.5,
        "no_repeat_ngram_size": 2,
        "suppress_tokens": [9, 8],
        "bad_words_ids": [[7]],
        "speaker_id": 1,
        "min_length": 4,
        "generate_speech": True,
    }
    expected = model.generate(**inputs, tgt_lang=SPOKEN, **plain)[0]
    for kind in (np.asarray, torch.tensor):
        given = {name: kind(value) for name, value in plain.items()}
        assert torch.equal(model.generate(**inputs, tgt_lang=np.str_(SPOKEN), **given)[0], expected)
    with pytest.raises(UsageError, match="num_beams must be an integer"):
        model.generate(**inputs, tgt_lang=SPOKEN, num_beams=np.float32(2.5))


def test_generate_warns_of_an_eos_token_id_that_ends_no_text(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    model = ours(TEXT_TO_TEXT, folder)
    inputs = text(folder, TEXTS[0]) | {"tgt_lang": SPOKEN, "max_new_tokens": 6}
    end = model.config.bos_token_id
    everything_else = [token for token in range(model.config.vocab_size) if token != end]
    with pytest.warns(UserWarning, match="ends no text here"):
        model.generate(**inputs, suppress_tokens=everything_else, eos_token_id=[3, end])
    with pytest.raises(UsageError, match="eos_token_id"):
        model.generate(**inputs, eos_token_id=[3, 17])
    with pytest.raises(UsageError, match="eos_token_id"):
        model.generate(**inputs, eos_token_id=[end])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"src_lang": "eng"}, "processor"),
        ({"generate_speech": False}, "SeamlessM4Tv2Model"),
        ({"language": "fr"}, "tgt_lang"),
        ({"sampling_rate": 16_000}, "processor"),
        ({"logits_processor": [print]}, "bad_words_ids"),
        ({"max_time": 3.0}, "timeout"),
        ({"output_hidden_states": True}, "get_encoder"),
        ({"stop_strings": ["."]}, "max_new_tokens"),
    ],
)
def test_generate_says_where_an_argument_belongs(
    checkpoint: Checkpoint, arguments: dict[str, Any], message: str
) -> None:
    folder = checkpoint(0)
    with pytest.raises(UsageError, match=f"{next(iter(arguments))}.*{message}"):
        ours(TEXT_TO_TEXT, folder).generate(**text(folder, TEXTS[0]), tgt_lang=SPOKEN, **arguments)


def test_generate_refuses_inputs_that_no_processor_made(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    inputs = text(folder, TEXTS[0])
    model = ours(TEXT_TO_TEXT, folder)
    for wrong, message in (("a.wav", "not str"), (inputs, "as keywords"), ([[1, 2], [3]], "not list")):
        with pytest.raises(UsageError, match=message):
            model.generate(wrong, tgt_lang=SPOKEN)
    with pytest.raises(UsageError, match="attention_mask must be a tensor"):
        model.generate(inputs["input_ids"], attention_mask="all", tgt_lang=SPOKEN)


@pytest.mark.parametrize("search", [{}, {"num_beams": 3, "num_return_sequences": 2}], ids=["greedy", "beams"])
def test_compute_transition_scores_equals_transformers(checkpoint: Checkpoint, search: dict[str, Any]) -> None:
    folder = checkpoint(1)
    arguments = {"tgt_lang": SPOKEN, "return_dict_in_generate": True, "output_scores": True} | search
    batch = text(folder, *TEXTS[:2])
    together = ours(TEXT_TO_TEXT, folder).generate(**batch, **arguments)
    count = search.get("num_return_sequences", 1)
    for index in range(2):
        inputs = text(folder, TEXTS[index])
        found, scores = [], []
        for model in (ours(TEXT_TO_TEXT, folder), theirs(TEXT_TO_TEXT, folder)):
            output = model.generate(**inputs, **arguments)
            beams = output.beam_indices if search else None
            scores.append(len(output.scores))
            found.append(model.compute_transition_scores(output.sequences, output.scores, beams, normalize_logits=True))
            if search:
                plain = model.compute_transition_scores(output.sequences, output.scores, beams)
                torch.testing.assert_close(plain, found[-1], atol=SCORE_ATOL, rtol=0.0)
        torch.testing.assert_close(*found, atol=SCORE_ATOL, rtol=0.0)
        assert scores[0] == found[0].shape[1] == output.sequences.shape[1] - 2
        logprobs = together.token_logprobs[count * index : count * index + count, : found[0].shape[1]]
        assert torch.equal(logprobs, found[0])


def test_compute_transition_scores_refuses_scores_that_are_not_kept(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    model = ours(TEXT_TO_TEXT, folder)
    arguments = {"tgt_lang": SPOKEN, "return_dict_in_generate": True, "output_scores": True}
    inputs = text(folder, TEXTS[0])
    output = model.generate(**inputs, **arguments)
    assert list(output) == ["sequences", "scores", "token_logprobs"] and output.beam_indices is None
    for wrong in (
        lambda: output.scores[0],
        lambda: list(output.scores),
        lambda: model.compute_transition_scores(output.sequences, output.scores),
        lambda: model.compute_transition_scores(output.sequences, (torch.zeros(1, 9),), normalize_logits=True),
    ):
        with pytest.raises(UsageError, match="token_logprobs"):
            wrong()
    with pytest.raises(UsageError, match="2 sequences"):
        model.compute_transition_scores(output.sequences.repeat(2, 1), output.scores, normalize_logits=True)
    for options in ({"repetition_penalty": 1.3}, {"suppress_tokens": [9]}, {"do_sample": True}):
        changed = model.generate(**inputs, **arguments, **options)
        with pytest.raises(UsageError, match="under the model itself"):
            model.compute_transition_scores(changed.sequences, changed.scores, normalize_logits=True)
    plain = model.generate(**inputs, **arguments, do_sample=True, top_k=0)
    found = model.compute_transition_scores(plain.sequences, plain.scores, normalize_logits=True)
    assert torch.equal(found, plain.token_logprobs)
