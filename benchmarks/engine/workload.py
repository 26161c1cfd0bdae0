"""What the engine is asked in a benchmark: requests of forced lengths, on a random checkpoint.

Lengths `even` are those of trace.json, `fixed` are 10 s of audio or 36 tokens, and `ragged`, of ragged.json, have a
long tail: with z and z' normal,

    source tokens = 26 · exp(0.75 z)      seconds of audio = 5.5 · exp(0.6 z)
    new tokens = source tokens · exp(0.05 + 0.25 z'), or 3.2 tokens a second · exp(0.2 z')

clipped to 5 … 256 tokens and 1 … 30 s. Source tokens count the language and eos, new tokens what follows the prompt.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seamless_engine import DecodingParams, Request
from seamless_engine.config import ModelConfig
from seamless_engine.model_inputs import Tokens
from tools.random_checkpoint import write_checkpoint

TASKS = ("s2tt", "s2st", "t2tt", "t2st")
RATE = 16000
SECONDS, TOKENS = 10.0, 36  # of a request of fixed length: audio in, tokens in or out
_TRACES = {"even": "trace.json", "ragged": "ragged.json"}
_FIXED = [{"seconds": SECONDS, "source_tokens": TOKENS, "new_tokens": TOKENS}] * 16  # different noise and pieces
_WORDS = "the train to city leaves at next morning house garden price story good very and of in is was there".split()


def _dims(hidden: int, layers: int, heads: int, ffn: int, vocab: int) -> dict[str, Any]:
    """All stacks alike; the unit model's keep their layers."""
    stacks = ("encoder", "decoder", "speech_encoder")
    return {
        "hidden_size": hidden,
        "vocab_size": vocab,
        **{f"{stack}_layers": layers for stack in stacks},
        **{f"{stack}_attention_heads": heads for stack in (*stacks, "t2u_encoder", "t2u_decoder")},
        **{f"{stack}_ffn_dim": ffn for stack in ("encoder", "decoder", "t2u_encoder")},
        "speech_encoder_intermediate_size": ffn,
        "t2u_variance_predictor_embed_dim": hidden,
    }


# 512 wide, six layers in every stack, the vocoder of v2-large; and a small part of everything, to try a benchmark.
MEDIUM = _dims(512, layers=6, heads=8, ffn=2048, vocab=32_000)
TINY = {
    **_dims(64, layers=1, heads=2, ffn=128, vocab=400),
    **{"t2u_encoder_layers": 1, "t2u_decoder_layers": 1, "upsample_initial_channel": 64},
    **{"unit_embed_dim": 32, "lang_embed_dim": 8, "spkr_embed_dim": 8},
}


@dataclass(frozen=True)
class Item:
    """A clip, a sentence or the token ids of one, and the number of tokens that its output is forced to have."""

    new_tokens: int
    waveform: np.ndarray | None = None  # float32 [samples] at 16 kHz
    text: str | None = None
    ids: list[int] | None = None

    @property
    def source_length(self) -> int:
        return len(self.waveform if self.waveform is not None else self.ids or (self.text or "").split())

    def request(self, task: str, num_beams: int, may_end: bool = True) -> Request:
        """may_end: whether texts of the checkpoint could end earlier, which is then forbidden."""
        least = self.new_tokens if may_end else 0
        params = DecodingParams(num_beams=num_beams, max_new_tokens=self.new_tokens, min_new_tokens=least)
        if self.waveform is not None:
            return Request(task, "fra", audio=self.waveform, sampling_rate=RATE, params=params)
        text = self.text if self.ids is None else Tokens(self.ids)
        return Request(task, "fra", text=text, src_lang="eng", params=params)


def items(task: str, lengths: str, count: int, config: ModelConfig, scale: float = 1.0) -> list[Item]:
    """`count` requests. scale: of all lengths. Where a trace ends it begins again."""
    speech, trace = task.startswith("s2"), _FIXED
    if lengths in _TRACES:
        content = json.loads((Path(__file__).parents[1] / _TRACES[lengths]).read_text(encoding="utf-8"))
        trace = content["clips" if speech else "sentences"]
    noise, rng = np.random.default_rng(0), random.Random(0)
    pieces = range(config.eos_token_id + 1, min(config.text_lang_ids.values()))

    def item(entry: dict[str, Any]) -> Item:
        new_tokens = max(round(entry["new_tokens"] * scale), 4)
        if speech:
            return Item(new_tokens, waveform=_clip(noise, int(entry["seconds"] * scale * RATE)))
        if "words" in entry:
            return Item(new_tokens, text=" ".join(rng.choice(_WORDS) for _ in range(entry["words"])))
        random_pieces = rng.choices(pieces, k=max(round(entry["source_tokens"] * scale) - 2, 1))
        return Item(new_tokens, ids=[config.text_lang_ids["eng"], *random_pieces, config.eos_token_id])

    made = [item(entry) for entry in trace[:count]]
    return [made[i % len(made)] for i in range(count)]


def _clip(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Noise whose level and colour change as in speech."""
    knots = np.arange(0, samples + 4000, 2000)
    envelope = np.interp(np.arange(samples), knots, rng.random(len(knots)))
    noise = rng.standard_normal(samples)
    noise[1:] += 0.7 * noise[:-1]
    return (0.1 * envelope[:samples] * noise).astype(np.float32)


def random_checkpoint(folder: Path, dims: dict[str, Any], device: str, endless: bool) -> Path:
    """Random weights. endless: texts never end by themselves; weights are made on the device, in bfloat16: the same
    numbers in any dtype."""
    options: dict[str, Any] = {"dtype": torch.bfloat16, "device": device, "endless": True} if endless else {}
    return write_checkpoint(folder, dims, **options)
