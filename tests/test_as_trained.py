"""`EngineConfig(reference="meta")` equals transformers with the positions and the last half frame of the training."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seamless_engine import DecodingParams, Engine, EngineConfig, Request, UsageError
from seamless_engine.config import ModelConfig
from seamless_engine.hf import SeamlessM4Tv2ForSpeechToText
from seamless_engine.model_inputs import Tokens
from seamless_engine.model_runner import ModelRunner
from seamless_engine.models.lengths import encoder_length
from seamless_engine.request import TASKS
from support.audio import clip_of_frames
from support.driven import all_same
from support.on_cpu import bounds
from support.oracle import load
from support.parity import CLIPS, TEXTS, agreement, clip_of_samples, random_request, same
from tolerance import assert_model_close

Checkpoint = Callable[[int], Path]
META = EngineConfig(reference="meta", max_num_seqs=48, num_slots=4096)
FRAMES = (*range(32, 48), 2, 3, 17, 150)  # every length modulo 8 of the adapter, even and odd


@pytest.fixture(scope="module", params=range(3))
def folder(request: pytest.FixtureRequest, checkpoint: Checkpoint) -> Path:
    return checkpoint(request.param)


def runner(folder: Path, options: EngineConfig) -> ModelRunner:
    config = ModelConfig.from_folder(folder)
    return ModelRunner(folder, config, options, TASKS, torch.device("cpu"), torch.float32)


def speech_states(made: ModelRunner) -> list[torch.Tensor]:
    """Encoder states of a clip of each of FRAMES, from one pass."""
    clips = [torch.from_numpy(clip_of_frames(frames, frames)) for frames in FRAMES]
    lengths = [encoder_length(frames // 2, made.config.adaptor_stride) for frames in FRAMES]
    with torch.inference_mode():
        return list(made.encode_audio(clips).split(lengths))


def test_speech_encoder_states_equal_the_reference_without_its_zeros(folder: Path) -> None:
    as_trained, as_transformers = (
        speech_states(runner(folder, options)) for options in (META, EngineConfig(num_slots=32))
    )
    for frames, mine, other in zip(FRAMES, as_trained, as_transformers, strict=True):
        expected = load(folder, reference="meta").speech_encoder(clip_of_frames(frames, frames))
        assert_model_close(mine, expected[: len(mine)], torch.float32)
        # The last state of the adapter reads the half frame if the number of complete frames modulo 8 is at most 3.
        assert torch.equal(mine, other) == (frames % 2 == 0 or frames // 2 % 8 > 3), frames


def test_text_encoder_states_equal_the_reference_with_later_positions(folder: Path) -> None:
    encoder = runner(folder, META).text_encoder
    assert encoder is not None
    generator = torch.Generator().manual_seed(1)
    sentences = [torch.randint(4, 200, (length,), generator=generator).tolist() for length in (1, 2, 9, 40)]
    lengths = [len(sentence) for sentence in sentences]
    with torch.inference_mode():
        packed = encoder(torch.tensor([token for sentence in sentences for token in sentence]), bounds(lengths))
    for sentence, mine in zip(sentences, packed.split(lengths), strict=True):
        assert_model_close(mine, load(folder, reference="meta").text_encoder(sentence), torch.float32)
        with pytest.raises(AssertionError, match="too far off"):
            assert_model_close(mine, load(folder).text_encoder(sentence), torch.float32)


def test_generate_equals_the_reference_and_is_batch_invariant(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    engine = Engine.from_pretrained(folder, device="cpu", options=META)
    rng = random.Random(4)
    candidates = iter(lambda: random_request(rng, engine.languages("s2st")), None)
    requests = [next(request for request in candidates if request.task == task) for task in TASKS]
    for samples in CLIPS[1:8:2]:  # odd clips whose half frame is read
        params = DecodingParams(num_beams=3, max_new_tokens=12)
        audio = clip_of_samples(samples, samples)
        requests.append(Request("s2tt", "fra", audio=audio, sampling_rate=16_000, params=params))
    results = engine.generate(requests)
    found = [agreement(*pair, load(folder, reference="meta")) for pair in zip(results, requests, strict=True)]
    assert all(one.holds for one in found), found
    assert sum(one.excused for one in found) <= 1
    assert all_same([engine.generate([request])[0] for request in requests], results)
    ours = Engine.from_pretrained(folder, device="cpu", options=EngineConfig(max_num_seqs=48, num_slots=4096))
    assert not any(same(*pair) for pair in zip(ours.generate(requests), results, strict=True))


def test_forced_logits_equal_the_reference(checkpoint: Checkpoint) -> None:
    folder = checkpoint(0)
    engine = Engine.from_pretrained(folder, device="cpu", tasks=["t2tt"], options=META)
    ids = load(folder).source_ids(TEXTS[0], "eng")
    tokens = [3, 205, 17, 0, 41, 9]  # a pad takes no position
    reference = load(folder, reference="meta").model
    with torch.no_grad():
        states = reference.text_encoder(torch.tensor([ids])).last_hidden_state
        hidden = reference.text_decoder(input_ids=torch.tensor([tokens]), encoder_hidden_states=states)
        expected = reference.lm_head(hidden.last_hidden_state)[0]
    assert_model_close(engine.forced_logits(Tokens(ids), tokens), expected, torch.float32)


def test_engine_config_takes_transformers_as_reference_by_default(checkpoint: Checkpoint) -> None:
    assert EngineConfig().reference == "transformers"
    for wrong in ("Meta", "fairseq2", None, True):
        with pytest.raises(UsageError, match='reference must be "transformers" or "meta", not '):
            EngineConfig(reference=wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="reference='meta': these classes compute what transformers does"):
        SeamlessM4Tv2ForSpeechToText.from_pretrained(checkpoint(0), options=META)
