"""The warnings of the preprocessor."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from seamless_engine import DecodingParams, EngineConfig, Request, Result
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
