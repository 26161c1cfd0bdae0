"""The work that engine benchmarks do: clips and sentences of the committed trace, on a random checkpoint."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import ragged
from seamless_engine import DecodingParams, Request
from seamless_engine.config import ModelConfig
from seamless_engine.prepared import Tokens
from seamless_engine.random_checkpoint import write_checkpoint

TASKS = ("s2tt", "s2st", "t2tt", "t2st")
RATE = 16000

# 512 wide, six layers in every stack, the vocoder of v2-large.
DIMS: dict[str, Any] = {
    "hidden_size": 512,
    "vocab_size": 32_000,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "speech_encoder_layers": 6,
    **{f"{part}_attention_heads": 8 for part in ("encoder", "decoder", "speech_encoder", "t2u_encoder", "t2u_decoder")},
    "encoder_ffn_dim": 2048,
    "decoder_ffn_dim": 2048,
    "speech_encoder_intermediate_size": 2048,
    "t2u_encoder_ffn_dim": 2048,
    "t2u_variance_predictor_embed_dim": 512,
}


@dataclass(frozen=True)
class Item:
    """One line of the trace: a clip or a sentence, and the number of tokens its output is forced to have."""

    waveform: np.ndarray | None  # float32 [samples] at 16 kHz
    text: str | None
    new_tokens: int
    ids: list[int] | None = None  # in place of text

    def request(self, task: str, num_beams: int) -> Request:
        params = DecodingParams(num_beams=num_beams, max_new_tokens=self.new_tokens, min_new_tokens=self.new_tokens)
        if self.waveform is not None:
            return Request(task, "fra", audio=self.waveform, sampling_rate=RATE, params=params)
        text = self.text if self.ids is None else Tokens(self.ids)
        return Request(task, "fra", text=text, src_lang="eng", params=params)


def items(task: str, count: int, seed: int = 0) -> list[Item]:
    """The first `count` lines of the trace for a task."""
    trace = json.loads((Path(__file__).parent / "trace.json").read_text())
    if task.startswith("s2"):
        noise = np.random.default_rng(seed)
        return [
            Item(_clip(noise, int(line["seconds"] * RATE)), None, line["new_tokens"]) for line in trace["clips"][:count]
        ]
    words = random.Random(seed)
    return [Item(None, _sentence(words, line["words"]), line["new_tokens"]) for line in trace["sentences"][:count]]


def ragged_items(task: str, config: ModelConfig, seed: int = 0) -> list[Item]:
    """The ragged trace. Sentences are random pieces, so that all sides read exactly the same ids."""
    trace = ragged.load()
    if task.startswith("s2"):
        noise = np.random.default_rng(seed)
        return [Item(_clip(noise, int(line["seconds"] * RATE)), None, line["new_tokens"]) for line in trace["clips"]]
    choose = random.Random(seed)
    language, eos = config.text_lang_ids["eng"], config.eos_token_id
    pieces = range(eos + 1, min(config.text_lang_ids.values()))
    return [
        Item(None, None, line["new_tokens"], [language, *choose.choices(pieces, k=line["source_tokens"] - 2), eos])
        for line in trace["sentences"]
    ]


def _clip(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Noise whose level and colour wander as in speech."""
    knots = np.arange(0, samples + 4000, 2000)
    envelope = np.interp(np.arange(samples), knots, rng.random(len(knots)))
    noise = rng.standard_normal(samples)
    noise[1:] += 0.7 * noise[:-1]
    return (0.1 * envelope[:samples] * noise).astype(np.float32)


_WORDS = "the train to city leaves at next morning house garden price story good very and of in is was there".split()


def _sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(_WORDS) for _ in range(words))


def bench_checkpoint(folder: Path) -> Path:
    """A random checkpoint of DIMS, written once."""
    if not (folder / "model.safetensors").exists():
        write_checkpoint(folder, DIMS, seed=0)
    return folder
