"""transformers on the same work: padded batches, each row ended at its own forced length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    SeamlessM4TFeatureExtractor,
    StoppingCriteria,
    StoppingCriteriaList,
)

from benchmarks.workload import RATE, Item
from seamless_engine.config import ModelConfig
from seamless_engine.inputs.tokenizer import Tokenizer

_CLASSES = {
    "s2tt": "SeamlessM4Tv2ForSpeechToText",
    "s2st": "SeamlessM4Tv2ForSpeechToSpeech",
    "t2tt": "SeamlessM4Tv2ForTextToText",
    "t2st": "SeamlessM4Tv2ForTextToSpeech",
}
_PROMPT = 2


class EndAt(LogitsProcessor):
    """eos at a length of each row's own, and not before: speech tasks look for it."""

    def __init__(self, lengths: list[int], num_beams: int, eos: int) -> None:
        self.lengths = torch.tensor(lengths).repeat_interleave(num_beams)
        self.eos = eos

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        ends = (self.lengths.to(scores.device) <= input_ids.shape[1] - _PROMPT + 1)[:, None]
        is_eos = torch.arange(scores.shape[1], device=scores.device)[None] == self.eos
        return scores.masked_fill(ends ^ is_eos, -torch.inf)  # type: ignore[return-value]


class StopAt(StoppingCriteria):
    """The end of a row at a length of its own: what costs transformers least."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = torch.tensor(lengths)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_: Any) -> torch.BoolTensor:
        each = input_ids.shape[0] // len(self.lengths)  # rows or candidates of a request
        lengths = self.lengths.to(input_ids.device).repeat_interleave(each)
        return lengths <= input_ids.shape[1] - _PROMPT  # type: ignore[return-value]


class Transformers:
    """One dedicated class of transformers with sdpa attention, on a checkpoint folder."""

    def __init__(self, folder: Path, task: str, device: str, dtype: torch.dtype) -> None:
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.task, self.device = task, device
        self.speaks = task in ("s2st", "t2st")
        self.config = ModelConfig.from_folder(folder)
        self.tokenizer = Tokenizer.from_folder(folder, self.config)
        self.extractor = SeamlessM4TFeatureExtractor.from_pretrained(folder)
        model_class = getattr(transformers, _CLASSES[task])
        self.model = model_class.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").eval().to(device)

    @torch.inference_mode()
    def generate(self, batch: list[Item], num_beams: int) -> tuple[list[list[int]], float]:
        """Generated tokens of a text task, and seconds of audio of a speech task. Features are extracted, as by us."""
        lengths = [item.new_tokens for item in batch]
        options = self._speech_options(lengths, num_beams) if self.speaks else self._text_options(lengths, num_beams)
        output = self.model.generate(**self._inputs(batch), **options, tgt_lang="fra")
        if self.speaks:
            return [], float(output[1].sum()) / RATE
        return [row[_PROMPT : _PROMPT + n] for row, n in zip(output.tolist(), lengths, strict=True)], 0.0

    def _text_options(self, lengths: list[int], num_beams: int) -> dict[str, Any]:
        return {
            "num_beams": num_beams,
            "max_new_tokens": max(lengths),
            "min_new_tokens": max(lengths),
            "stopping_criteria": StoppingCriteriaList([StopAt(lengths)]),
        }

    def _speech_options(self, lengths: list[int], num_beams: int) -> dict[str, Any]:
        return {
            "text_num_beams": num_beams,
            "text_max_new_tokens": max(lengths) + 1,
            "text_logits_processor": LogitsProcessorList([EndAt(lengths, num_beams, self.config.eos_token_id)]),
        }

    def _inputs(self, batch: list[Item]) -> Any:
        if batch[0].waveform is not None:
            waves = [item.waveform for item in batch if item.waveform is not None]
            return self.extractor(waves, sampling_rate=RATE, return_tensors="pt", padding=True).to(
                self.device, self.model.dtype
            )
        ids = [torch.tensor(item.ids or self.tokenizer.encode(item.text or "", "eng")) for item in batch]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True).to(self.device)
        return {"input_ids": padded, "attention_mask": (padded != 0).long()}
