"""The drop-in classes: loading, forward, the pipeline, transformers' own examples and the table of arguments."""

from __future__ import annotations

import functools
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig

from seamless_engine import CheckpointError, EngineConfig, UsageError, hf
from seamless_engine.hf.arguments import KNOWN
from support.audio import clip, clip_of_frames
from support.hf import SPOKEN, ours, speech, text, theirs
from support.parity import TEXTS
from tolerance import assert_model_close

Checkpoint = Callable[..., Path]
CLASSES = (
    "SeamlessM4Tv2Model",
    "SeamlessM4Tv2ForSpeechToText",
    "SeamlessM4Tv2ForTextToText",
    "SeamlessM4Tv2ForSpeechToSpeech",
    "SeamlessM4Tv2ForTextToSpeech",
)
PAGE = Path(__file__).parents[1] / "docs" / "transformers-arguments.md"
ROWS = re.findall(r"^\| `(\w+)` \| (.*?) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def test_hf_does_not_import_transformers() -> None:
    program = "import sys, seamless_engine.hf; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("name", CLASSES)
def test_from_pretrained_loads_only_the_modules_of_the_class(checkpoint: Checkpoint, name: str) -> None:
    folder = checkpoint(0)
    modules = {child for child, _ in theirs(name, folder).named_children()} - {"lm_head"}
    assert set(ours(name, folder).engine.weight_bytes) == modules


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_from_pretrained_takes_the_dtype_of_the_checkpoint_by_default(
    checkpoint: Checkpoint, stored: torch.dtype
) -> None:
    folder = checkpoint(0, dtype=stored)
    load = functools.partial(hf.SeamlessM4Tv2ForTextToText.from_pretrained, folder, device="cpu")
    reference = functools.partial(transformers.SeamlessM4Tv2ForTextToText.from_pretrained, folder)
    assert load().dtype == load(dtype="auto").dtype == reference().dtype == stored
    assert load(torch_dtype=torch.float16).dtype == reference(dtype=torch.float16).dtype == torch.float16
    assert load(dtype="float32").dtype == torch.float32


def test_from_pretrained_accepts_every_spelling_of_a_device(checkpoint: Checkpoint) -> None:
    load: Any = functools.partial(hf.SeamlessM4Tv2ForTextToText.from_pretrained, checkpoint(0))
    for arguments in ({"device": "cpu"}, {"device_map": "cpu"}, {"device_map": {"": torch.device("cpu")}}):
        model = load(
            **arguments, attn_implementation="sdpa", low_cpu_mem_usage=True, options=EngineConfig(max_num_seqs=4)
        )
        assert model.device == torch.device("cpu")
        assert model.engine.options.max_num_seqs == 4
    with pytest.raises(UsageError, match="not both"):
        load(device="cpu", device_map="cpu")
    with pytest.raises(UsageError, match="one device"):
        load(device_map={"text_encoder": 0, "text_decoder": "cpu"})


def test_config_has_the_fields_of_the_file(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = checkpoint(1)
    config = ours("SeamlessM4Tv2ForTextToText", folder).config
    reference: PretrainedConfig = theirs("SeamlessM4Tv2ForTextToText", folder).config
    assert config == hf.SeamlessM4Tv2Config.from_pretrained(folder)
    stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config.to_dict().items() >= stored.items()
    for name in ("hidden_size", "vocoder_num_spkrs", "num_hidden_layers", "num_attention_heads", "is_encoder_decoder"):
        assert getattr(config, name) == getattr(reference, name)
    assert hf.SeamlessM4Tv2Config().vocab_size == transformers.SeamlessM4Tv2Config().vocab_size
    with pytest.raises(AttributeError, match="no_such_field"):
        config.no_such_field  # noqa: B018
    with pytest.raises(UsageError, match="cannot be set"):
        config.hidden_size = 8
    with pytest.raises(CheckpointError):
        hf.SeamlessM4Tv2Config.from_pretrained(tmp_path)


def test_generation_config_has_the_language_maps_of_transformers(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    found = ours("SeamlessM4Tv2Model", folder).generation_config
    expected = theirs("SeamlessM4Tv2Model", folder).generation_config
    for name in ("text_decoder_lang_to_code_id", "t2u_lang_code_to_id", "vocoder_lang_code_to_id", "max_new_tokens"):
        assert getattr(found, name) == getattr(expected, name)


@pytest.mark.parametrize("name", CLASSES)
def test_forward_equals_transformers(checkpoint: Checkpoint, name: str) -> None:
    folder = checkpoint(2)
    decoder_ids = torch.tensor([[3, 330, 40, 50, 60], [3, 331, 70, 0, 80]])  # a pad in the middle takes no position
    if "ForText" in name:
        inputs, single = text(folder, *TEXTS[:2]), [text(folder, sentence) for sentence in TEXTS[:2]]
    else:
        clips = [clip_of_frames(1, 147), clip_of_frames(2, 90)]
        inputs, single = speech(folder, *clips), [speech(folder, samples) for samples in clips]
    found = ours(name, folder)(**inputs, decoder_input_ids=decoder_ids)
    assert found.logits.shape == (2, 5, 337) and found.logits.dtype == torch.float32
    assert not found.logits.is_inference()
    for index, one in enumerate(single):
        expected = theirs(name, folder)(**one, decoder_input_ids=decoder_ids[index : index + 1]).logits
        assert_model_close(found.logits[index : index + 1], expected.detach())
    assert found[0] is found["logits"] is found.logits


def test_forward_leaves_the_pool_as_it_was(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    options = EngineConfig(num_slots=64, max_num_seqs=2)
    model: Any = hf.SeamlessM4Tv2ForTextToText.from_pretrained(folder, device="cpu", options=options)
    inputs = text(folder, TEXTS[0])
    before = model.generate(**inputs, tgt_lang=SPOKEN, max_new_tokens=20)
    for _ in range(5):
        model(**inputs, decoder_input_ids=before[:, :-1])
    with pytest.raises(ValueError, match="blocks"):
        model(**inputs, decoder_input_ids=torch.full((1, 60), 7))
    assert torch.equal(model.generate(**inputs, tgt_lang=SPOKEN, max_new_tokens=20), before)


def test_forward_predicts_the_tokens_of_generate(checkpoint: Checkpoint) -> None:
    folder = checkpoint(1)
    model = ours("SeamlessM4Tv2ForTextToText", folder)
    inputs = text(folder, TEXTS[1])
    sequences = model.generate(**inputs, tgt_lang=SPOKEN)
    logits = model(**inputs, decoder_input_ids=sequences[:, :-1]).logits
    assert torch.equal(logits.argmax(-1)[:, 1:], sequences[:, 2:])


@pytest.mark.parametrize("name", ["labels", "past_key_values", "encoder_outputs", "output_attentions", "return_dict"])
def test_forward_refuses_arguments_without_support(checkpoint: Checkpoint, name: str) -> None:
    folder = checkpoint(0)
    value = name != "return_dict"
    with pytest.raises(UsageError, match=name):
        ours("SeamlessM4Tv2ForTextToText", folder)(
            **text(folder, TEXTS[0]), decoder_input_ids=torch.tensor([[3]]), **{name: value}
        )


# Values for the accepted arguments.
VALUES: dict[str, Any] = {
    "attention_mask": torch.ones(1, 50, dtype=torch.int64),
    "tgt_lang": "fra",
    "speaker_id": 1,
    "generate_speech": False,
    "generation_config": GenerationConfig(num_beams=2),
    "num_beams": 2,
    "max_new_tokens": 5,
    "min_new_tokens": 2,
    "min_length": 4,
    "max_length": 9,
    "length_penalty": 0.5,
    "early_stopping": "never",
    "repetition_penalty": 1.5,
    "no_repeat_ngram_size": 2,
    "bad_words_ids": [[9, 8], [7]],
    "suppress_tokens": [9, 8],
    "temperature": 0.7,
    "top_k": 5,
    "top_p": 0.5,
}
OWN_IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": [3], "decoder_start_token_id": 3}


@pytest.mark.filterwarnings("ignore:.*has no effect")
@pytest.mark.parametrize(("name", "status"), ROWS)
def test_generate_treats_each_argument_as_the_page_says(checkpoint: Checkpoint, name: str, status: str) -> None:
    folder = checkpoint(0)
    model = ours("SeamlessM4Tv2ForSpeechToText" if name == "inputs" else "SeamlessM4Tv2Model", folder)
    features = speech(folder, clip_of_frames(3, 100))["input_features"]
    arguments: dict[str, Any] = {"input_features": features, "tgt_lang": SPOKEN}
    if name in ("inputs", "input_ids"):
        del arguments["input_features"]
    if name == "decoder_input_ids":
        del arguments["tgt_lang"]
    if name == "num_return_sequences":
        arguments["num_beams"] = 2
    special = {
        "inputs": features,
        "input_features": features,
        "input_ids": text(folder, TEXTS[0])["input_ids"],
        "decoder_input_ids": torch.tensor([[3, model.generation_config.text_decoder_lang_to_code_id[SPOKEN]]]),
        "num_return_sequences": 2,
    }
    if status == "refused":
        with pytest.raises(UsageError, match=name):
            model.generate(**arguments, **{name: 7})
        neutral = OWN_IDS.get(name, getattr(GenerationConfig(), name, None))
        model.generate(**arguments, **{name: neutral})
        return
    assert status in ("supported", "different", "no effect")
    found = model.generate(**arguments | {name: special.get(name, VALUES.get(name, True))})
    if status == "no effect":
        assert torch.equal(found[0], model.generate(**arguments)[0])


def test_page_of_arguments_lists_every_argument() -> None:
    listed = [name for name, _ in ROWS]
    assert len(listed) == len(set(listed))
    owners: list[Any] = [*(getattr(transformers, name) for name in CLASSES), GenerationMixin]
    named = {name for owner in owners for name in inspect.signature(owner.generate).parameters} - {"self", "kwargs"}
    named |= {name for name in vars(GenerationConfig()) if not name.startswith("_")} - {"transformers_version"}
    assert named | KNOWN <= set(listed)


# Examples of transformers' documentation of the model, with arrays in place of downloads.
SPEECH_AND_TEXT = """
import torch
from transformers import AutoProcessor
from {module} import SeamlessM4Tv2Model

processor = AutoProcessor.from_pretrained(folder)
model = SeamlessM4Tv2Model.from_pretrained(folder)

text_inputs = processor(text="Hello, my dog is cute", src_lang="eng", return_tensors="pt")
audio_inputs = processor(audio=audio, sampling_rate=16_000, return_tensors="pt")
audio_array_from_text = model.generate(**text_inputs, tgt_lang="spa")[0].cpu().numpy().squeeze()
audio_array_from_audio = model.generate(**audio_inputs, tgt_lang="spa", speaker_id=1)[0].cpu().numpy().squeeze()

output_tokens = model.generate(**audio_inputs, tgt_lang="fra", generate_speech=False)
translated_text_from_audio = processor.decode(output_tokens[0].tolist()[0], skip_special_tokens=True)
output_tokens = model.generate(**text_inputs, tgt_lang="fra", generate_speech=False, text_num_beams=4)
translated_text_from_text = processor.decode(output_tokens[0].tolist()[0], skip_special_tokens=True)

both = model.generate(**audio_inputs, tgt_lang="fra", return_intermediate_token_ids=True)
result = (
    translated_text_from_audio,
    translated_text_from_text,
    processor.batch_decode(both.sequences, skip_special_tokens=True),
    audio_array_from_text,
    audio_array_from_audio,
    both.waveform.numpy(),
)
"""
DEDICATED = """
import torch
from transformers import AutoProcessor
from {module} import SeamlessM4Tv2ForSpeechToText, SeamlessM4Tv2ForTextToSpeech

processor = AutoProcessor.from_pretrained(folder)
model = SeamlessM4Tv2ForSpeechToText.from_pretrained(folder, dtype="auto")
inputs = processor(audio=audio, sampling_rate=16_000, return_tensors="pt")
try:
    model(**inputs).logits  # as on the page, without decoder_input_ids
    failed = False
except ValueError:
    failed = True
decoder_input_ids = model.generate(**inputs, tgt_lang="fra")
with torch.no_grad():
    logits = model(**inputs, decoder_input_ids=decoder_input_ids).logits
predicted_ids = torch.argmax(logits, dim=-1)
model = SeamlessM4Tv2ForTextToSpeech.from_pretrained(folder)
waveform, waveform_lengths = model.generate(
    **processor(text="Good morning!", src_lang="eng", return_tensors="pt"), tgt_lang="fra"
)
result = (failed, processor.batch_decode(predicted_ids)[0], waveform_lengths.item(), waveform.numpy())
"""


@pytest.mark.parametrize("example", [SPEECH_AND_TEXT, DEDICATED], ids=["model", "dedicated"])
def test_examples_of_transformers_work_after_changing_the_import(checkpoint: Checkpoint, example: str) -> None:
    results = []
    for module in ("transformers", "seamless_engine.hf"):
        names: dict[str, Any] = {"folder": checkpoint(0), "audio": clip(7, 1.3)}
        exec(example.format(module=module), names)
        results.append(names["result"])
    for expected, found in zip(*results, strict=True):
        if isinstance(expected, np.ndarray):
            np.testing.assert_allclose(found, expected, atol=1e-4)
        else:
            assert found == expected


def test_tips_of_the_transformers_page_work(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    model = ours("SeamlessM4Tv2Model", folder)
    inputs = text(folder, TEXTS[0])
    ids = inputs["input_ids"]
    sampled = model.generate(input_ids=ids, tgt_lang=SPOKEN, text_num_beams=4, text_do_sample=True)
    assert sampled[0].shape[0] == 1
    model.generate(**inputs, tgt_lang=SPOKEN, speech_do_sample=True, speech_temperature=0.6)
    voices = [model.generate(**inputs, tgt_lang=SPOKEN, speaker_id=speaker)[0] for speaker in (0, 1)]
    assert not torch.equal(voices[0], voices[1])
