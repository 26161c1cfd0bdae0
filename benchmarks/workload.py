"""The work that engine benchmarks do: clips and sentences of the committed trace, on a random checkpoint."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import ragged
from seamless_engine import DecodingParams, Request
from seamless_engine.config import ModelConfig
from seamless_engine.model_inputs import Tokens
from tools.random_checkpoint import write_checkpoint

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


# A small part of everything, to try a benchmark in seconds.
TINY: dict[str, Any] = {
    "vocab_size": 400,
    "t2u_vocab_size": 226,
    "char_vocab_size": 120,
    "hidden_size": 64,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "speech_encoder_layers": 1,
    "t2u_encoder_layers": 1,
    "t2u_decoder_layers": 1,
    **{f"{part}_attention_heads": 2 for part in ("encoder", "decoder", "speech_encoder", "t2u_encoder", "t2u_decoder")},
    **{f"{part}_ffn_dim": 128 for part in ("encoder", "decoder", "t2u_encoder")},
    "speech_encoder_intermediate_size": 128,
    "t2u_variance_predictor_embed_dim": 64,
    "t2u_variance_predictor_hidden_dim": 32,
    "unit_hifi_gan_vocab_size": 200,
    "unit_embed_dim": 32,
    "lang_embed_dim": 8,
    "spkr_embed_dim": 8,
    "vocoder_num_langs": 4,
    "vocoder_num_spkrs": 3,
    "upsample_initial_channel": 64,
}

SECONDS, TOKENS = 10.0, 36  # of a request of fixed length: audio in, tokens in or out
_DISTINCT = 16  # clips of one length; more requests have them again


@dataclass(frozen=True)
class Item:
    """One line of the trace: a clip or a sentence, and the number of tokens its output is forced to have."""

    waveform: np.ndarray | None  # float32 [samples] at 16 kHz
    text: str | None
    new_tokens: int
    ids: list[int] | None = None  # in place of text

    def request(self, task: str, num_beams: int, may_end: bool = True) -> Request:
        """may_end: whether texts of the checkpoint could end earlier, which is then forbidden."""
        least = self.new_tokens if may_end else 0
        params = DecodingParams(num_beams=num_beams, max_new_tokens=self.new_tokens, min_new_tokens=least)
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
    return [
        Item(None, None, line["new_tokens"], _ids(choose, line["source_tokens"], config)) for line in trace["sentences"]
    ]


def fixed_items(task: str, config: ModelConfig, count: int, seconds: float, tokens: int, seed: int = 0) -> list[Item]:
    """Requests of one length: clips of so many seconds or sentences of so many tokens, which become as many."""
    if task.startswith("s2"):
        noise = np.random.default_rng(seed)
        clips = [_clip(noise, int(seconds * RATE)) for _ in range(min(count, _DISTINCT))]
        return [Item(clips[i % len(clips)], None, tokens) for i in range(count)]
    choose = random.Random(seed)
    return [Item(None, None, tokens, _ids(choose, tokens, config)) for _ in range(count)]


def _ids(choose: random.Random, length: int, config: ModelConfig) -> list[int]:
    """A sentence of random pieces, with its language and eos."""
    language, eos = config.text_lang_ids["eng"], config.eos_token_id
    pieces = range(eos + 1, min(config.text_lang_ids.values()))
    return [language, *choose.choices(pieces, k=length - 2), eos]


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


def endless_checkpoint(folder: Path, dims: dict[str, Any], device: str) -> Path:
    """Random weights whose texts never end by themselves, drawn on the device, written once.

    bfloat16, so that the same numbers are float16 and float32 too, but for the smallest. Raises SystemExit for a folder
    that holds something else.
    """
    if not (folder / "config.json").exists():
        return write_checkpoint(folder, dims, dtype=torch.bfloat16, device=device, endless=True)
    config = ModelConfig.from_folder(folder)
    if any(getattr(config, name) != dims.get(name, getattr(ModelConfig, name)) for name in TINY):
        raise SystemExit(f"{folder} has a model of other dims: give --checkpoint an empty folder")
    return folder


def fast_folder() -> str | None:
    """Where temporary files of 5 GB go: into memory where it can be had as a folder, else where they always go."""
    memory = "/dev/shm"
    return memory if Path(memory).is_dir() and shutil.disk_usage(memory).free > 10 << 30 else None
