"""What the preprocessor refuses and warns of."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from seamless_engine import DecodingParams, EngineConfig, Request, Result, UsageError
from seamless_engine.config import ModelConfig
from seamless_engine.inputs.preprocess import Preprocessor
from seamless_engine.inputs.tokenizer import Tokenizer
from seamless_engine.model_inputs import Tokens
from seamless_engine.request import TASKS

CHECKPOINT = Path(__file__).resolve().parents[2] / "demo" / "checkpoint"


@pytest.mark.parametrize(("positions", "longest"), [(4096, 512), (256, 256)])
def test_prepare_warns_of_a_text_longer_than_the_training_inputs(positions: int, longest: int):
    config = dataclasses.replace(ModelConfig.from_folder(CHECKPOINT), max_position_embeddings=positions)
    preprocessor = Preprocessor(config, EngineConfig(), TASKS, Tokenizer.from_folder(CHECKPOINT, config))
    for length in (longest, longest + 1):
        result = Result(0, "t2tt", "eng")
        preprocessor.prepare(Request("t2tt", "eng", text=Tokens([5] * length)), DecodingParams(), result)
        said = [f"the text has {length} tokens, and the model was made for at most {longest}"] * (length > longest)
        assert [warning.partition(":")[0] for warning in result.warnings] == said


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tgt_lang", "xxx", "t2st cannot speak 'xxx'"),
        ("src_lang", "xxx", "text encoder does not know 'xxx'"),
        ("speaker_id", 200, "speaker_id 200"),
    ],
)
def test_prepare_refuses_a_request_that_was_changed_after_a_check(name: str, value: object, message: str):
    config = ModelConfig.from_folder(CHECKPOINT)
    preprocessor = Preprocessor(config, EngineConfig(), TASKS, Tokenizer.from_folder(CHECKPOINT, config))
    request = Request("t2st", "fra", text="seven", src_lang="eng")
    preprocessor.check(request, DecodingParams())
    setattr(request, name, value)
    with pytest.raises(UsageError, match=message):
        preprocessor.prepare(request, DecodingParams(), Result(0, "t2st", "fra"))
