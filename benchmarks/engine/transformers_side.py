"""transformers on the same work: padded batches of similar length, each text ended at its own forced length."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import LogitsProcessorList, SeamlessM4TFeatureExtractor, StoppingCriteriaList

from benchmarks.engine.sides import Answer, Side
from benchmarks.engine.workload import RATE, Item
from seamless_engine.config import ModelConfig
from seamless_engine.inputs.tokenizer import Tokenizer

_CLASSES = {
    "s2tt": "SeamlessM4Tv2ForSpeechToText",
    "s2st": "SeamlessM4Tv2ForSpeechToSpeech",
    "t2tt": "SeamlessM4Tv2ForTextToText",
    "t2st": "SeamlessM4Tv2ForTextToSpeech",
}
_PROMPT = 2


class EndAt(transformers.LogitsProcessor):
    """eos at a length of each sequence's own, and not before: speech tasks look for it."""

    def __init__(self, lengths: list[int], num_beams: int, eos: int) -> None:
        self.lengths, self.eos = torch.tensor(lengths).repeat_interleave(num_beams), eos

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> Any:
        ends = (self.lengths.to(scores.device) <= input_ids.shape[1] - _PROMPT + 1)[:, None]
        is_eos = torch.arange(scores.shape[1], device=scores.device)[None] == self.eos
        return scores.masked_fill(ends ^ is_eos, -torch.inf)


class StopAt(transformers.StoppingCriteria):
    """The end of a sequence at a length of its own: what costs transformers least."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = torch.tensor(lengths)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_: Any) -> Any:
        each = input_ids.shape[0] // len(self.lengths)  # beams or candidates of a request
        return self.lengths.to(input_ids.device).repeat_interleave(each) <= input_ids.shape[1] - _PROMPT


class Transformers(Side):
    """One dedicated class of transformers with sdpa attention, on a checkpoint folder."""

    def __init__(self, folder: Path, task: str, device: str, dtype: str, batches: Sequence[int]) -> None:
        super().__init__(device, [{"batch": size} for size in batches])
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.device, self.synthesizes = device, task.endswith("st")
        self.config = ModelConfig.from_folder(folder)
        self.tokenizer = Tokenizer.from_folder(folder, self.config)
        self.extractor = SeamlessM4TFeatureExtractor.from_pretrained(folder)
        kind: Any = getattr(transformers, _CLASSES[task])
        model = kind.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation="sdpa")
        self.model: Any = model.eval().to(device)
        self.clock.watch(self, "inputs", "front end")
        self.clock.watch(self.model, "generate", "decode")  # what the stages inside leave of it
        encoder = self.model.speech_encoder if task.startswith("s2") else self.model.text_encoder
        self.clock.watch(encoder, "forward", "encode")
        if self.synthesizes:
            self.clock.watch(self.model.t2u_model, "forward", "t2u")
            self.clock.watch(self.model.vocoder, "forward", "vocoder")

    @torch.inference_mode()
    def answer(self, task: str, work: list[Item], num_beams: int, batch: int) -> list[Answer]:
        """batch: 0 is all requests in one. Raises RuntimeError for a batch that is too large."""
        answers: dict[int, Answer] = {}
        order = sorted(range(len(work)), key=lambda i: -work[i].source_length)
        size, start = batch or len(work), time.perf_counter()
        for first in range(0, len(work), size):
            group = order[first : first + size]
            made = self._generate([work[i] for i in group], num_beams)
            seconds = time.perf_counter() - start
            answers |= {i: Answer(seconds, *one) for i, one in zip(group, made, strict=True)}
        return [answers[i] for i in range(len(work))]

    def _generate(self, batch: list[Item], num_beams: int) -> list[tuple[list[int] | None, int]]:
        """Tokens and samples of each."""
        lengths = [item.new_tokens for item in batch]
        options: dict[str, Any] = {
            "num_beams": num_beams,
            "max_new_tokens": max(lengths),
            "min_new_tokens": max(lengths),
            "stopping_criteria": StoppingCriteriaList([StopAt(lengths)]),
        }
        if self.synthesizes:
            options = {
                "text_num_beams": num_beams,
                "text_max_new_tokens": max(lengths) + 1,
                "text_logits_processor": LogitsProcessorList([EndAt(lengths, num_beams, self.config.eos_token_id)]),
            }
        output = self.model.generate(**self.inputs(batch), **options, tgt_lang="fra")
        if self.synthesizes:
            return [(None, int(samples)) for samples in output[1].reshape(-1)]
        return [(ids[_PROMPT : _PROMPT + n], 0) for ids, n in zip(output.tolist(), lengths, strict=True)]

    def inputs(self, batch: list[Item]) -> Any:
        """Features or padded token ids: transformers' front end."""
        waves = [item.waveform for item in batch if item.waveform is not None]
        if waves:
            made = self.extractor(waves, sampling_rate=RATE, return_tensors="pt", padding=True)
            return made.to(self.device, self.model.dtype)
        ids = [torch.tensor(item.ids or self.tokenizer.encode(item.text or "", "eng")) for item in batch]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True).to(self.device)
        return {"input_ids": padded, "attention_mask": (padded != 0).long()}

    def close(self) -> None:
        self.model = None
