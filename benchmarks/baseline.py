"""transformers on the same work: padded batches, each row ended at its own forced length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import LogitsProcessor, LogitsProcessorList, SeamlessM4TFeatureExtractor

from benchmarks.workload import RATE, Item
from seamless_engine.config import ModelConfig
from seamless_engine.tokenizer import Tokenizer

_CLASSES = {
    "s2tt": "SeamlessM4Tv2ForSpeechToText",
    "s2st": "SeamlessM4Tv2ForSpeechToSpeech",
    "t2tt": "SeamlessM4Tv2ForTextToText",
    "t2st": "SeamlessM4Tv2ForTextToSpeech",
}


class EndAt(LogitsProcessor):
    """eos at a length of each row's own, and not before: what our engine's forced lengths do."""

    def __init__(self, lengths: list[int], num_beams: int, eos: int) -> None:
        self.lengths = torch.tensor(lengths).repeat_interleave(num_beams)
        self.eos = eos

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        generated = input_ids.shape[1] - 2
        ends = (self.lengths.to(scores.device) <= generated + 1)[:, None]
        is_eos = torch.arange(scores.shape[1], device=scores.device)[None] == self.eos
        return scores.masked_fill(ends ^ is_eos, -torch.inf)  # type: ignore[return-value]


class Transformers:
    """One dedicated class of transformers with sdpa attention, on a checkpoint folder."""

    def __init__(self, folder: Path, task: str, device: str, dtype: torch.dtype) -> None:
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.task, self.device = task, device
        self.config = ModelConfig.from_folder(folder)
        self.tokenizer = Tokenizer.from_folder(folder, self.config)
        self.extractor = SeamlessM4TFeatureExtractor.from_pretrained(folder)
        model_class = getattr(transformers, _CLASSES[task])
        self.model = model_class.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").eval().to(device)

    @torch.inference_mode()
    def generate(self, batch: list[Item], num_beams: int) -> float:
        """Seconds of audio that came out (0 for text tasks). Includes feature extraction, as ours does."""
        ends = EndAt([item.new_tokens for item in batch], num_beams, self.config.eos_token_id)
        speaks = self.task in ("s2st", "t2st")
        prefix = "text_" if speaks else ""
        options: dict[str, Any] = {
            f"{prefix}num_beams": num_beams,
            f"{prefix}max_new_tokens": max(item.new_tokens for item in batch) + 1,
            f"{prefix}logits_processor": LogitsProcessorList([ends]),
            "tgt_lang": "fra",
        }
        output = self.model.generate(**self._inputs(batch), **options)
        return float(output[1].sum()) / RATE if speaks else 0.0

    def _inputs(self, batch: list[Item]) -> Any:
        if batch[0].waveform is not None:
            waves = [item.waveform for item in batch if item.waveform is not None]
            return self.extractor(waves, sampling_rate=RATE, return_tensors="pt", padding=True).to(self.device)
        ids = [torch.tensor(self.tokenizer.encode(item.text or "", "eng")) for item in batch]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True).to(self.device)
        return {"input_ids": padded, "attention_mask": (padded != 0).long()}
