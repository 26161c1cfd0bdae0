"""transformers' five classes for SeamlessM4T-v2, computed by the engine."""

from __future__ import annotations

from typing import Any

import torch

from seamless_engine.errors import UsageError
from seamless_engine.hf.arguments import split_sides
from seamless_engine.hf.base import Pretrained
from seamless_engine.hf.outputs import GenerateOutput, LogitsOutput, SpeechOutput
from seamless_engine.request import Task


class _ReadsText(Pretrained):
    main_input_name = "input_ids"

    def forward(
        self, input_ids: Any = None, attention_mask: Any = None, decoder_input_ids: Any = None, **kwargs: Any
    ) -> LogitsOutput:
        """Logits after each of decoder_input_ids int64 [batch, T], for input_ids [batch, length]."""
        return self._logits(self._sentences(input_ids, attention_mask), decoder_input_ids, kwargs)


class _ReadsSpeech(Pretrained):
    main_input_name = "input_features"

    def forward(
        self, input_features: Any = None, attention_mask: Any = None, decoder_input_ids: Any = None, **kwargs: Any
    ) -> LogitsOutput:
        """Logits after each of decoder_input_ids int64 [batch, T], for input_features [batch, frames, 160]."""
        return self._logits(self._clips(input_features, attention_mask), decoder_input_ids, kwargs)


class SeamlessM4Tv2ForTextToText(_ReadsText):
    tasks = ("t2tt",)

    def generate(
        self, input_ids: Any = None, tgt_lang: str | None = None, generation_config: Any = None, **kwargs: Any
    ) -> torch.Tensor | GenerateOutput:
        """Translate text. attention_mask [batch, length] belongs to input_ids; without one, pad ids are padding.

        Returns int64 [R, S]: prompt, tokens, eos, padding with pad_token_id; with return_dict_in_generate=True a
        `GenerateOutput`. Raises UsageError that names an argument which is not supported, and `Result.error` of the
        first row of the batch that failed.
        """
        sources = self._sentences(input_ids, kwargs.pop("attention_mask", None))
        return self._generate_text(sources, "t2tt", tgt_lang, kwargs | {"generation_config": generation_config})


class SeamlessM4Tv2ForSpeechToText(_ReadsSpeech):
    tasks = ("asr", "s2tt")

    def generate(
        self, input_features: Any = None, tgt_lang: str | None = None, generation_config: Any = None, **kwargs: Any
    ) -> torch.Tensor | GenerateOutput:
        """Transcribe or translate speech, input_features [batch, frames, 160] with attention_mask [batch, frames].

        Returns and raises the same as `SeamlessM4Tv2ForTextToText.generate`.
        """
        features = kwargs.pop("inputs", None) if input_features is None else input_features
        sources = self._clips(features, kwargs.pop("attention_mask", None))
        return self._generate_text(sources, "s2tt", tgt_lang, kwargs | {"generation_config": generation_config})


class SeamlessM4Tv2ForTextToSpeech(_ReadsText):
    tasks = ("t2st",)

    def generate(
        self,
        input_ids: Any = None,
        return_intermediate_token_ids: bool | None = None,
        tgt_lang: str | None = None,
        speaker_id: int | None = 0,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor] | SpeechOutput:
        """Translate text into speech. Arguments with the prefix `text_` are for the text only, with `speech_` for the
        units only.

        Returns waveform float32 [R, samples], padded with zeros, and the lengths int64 [R], a scalar when R is 1; with
        return_intermediate_token_ids=True a `SpeechOutput`. A text without characters has the length 0. Raises the same
        as `SeamlessM4Tv2ForTextToText.generate`.
        """
        text, speech = split_sides(kwargs)
        sources = self._sentences(input_ids, text.pop("attention_mask", None))
        return self._generate_speech(sources, "t2st", tgt_lang, speaker_id, return_intermediate_token_ids, text, speech)


class SeamlessM4Tv2ForSpeechToSpeech(_ReadsSpeech):
    tasks = ("s2st",)

    def generate(
        self,
        input_features: Any = None,
        return_intermediate_token_ids: bool | None = None,
        tgt_lang: str | None = None,
        speaker_id: int | None = 0,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor] | SpeechOutput:
        """Translate speech into speech; as `SeamlessM4Tv2ForTextToSpeech.generate`."""
        text, speech = split_sides(kwargs)
        sources = self._clips(input_features, text.pop("attention_mask", None))
        return self._generate_speech(sources, "s2st", tgt_lang, speaker_id, return_intermediate_token_ids, text, speech)


class SeamlessM4Tv2Model(Pretrained):
    tasks = ("asr", "s2tt", "s2st", "t2tt", "t2st")
    main_input_name = "input_ids"

    def generate(
        self,
        input_ids: Any = None,
        input_features: Any = None,
        return_intermediate_token_ids: bool | None = None,
        tgt_lang: str | None = None,
        speaker_id: int | None = 0,
        generate_speech: bool | None = True,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor] | SpeechOutput | GenerateOutput:
        """Any of the tasks: the input and `generate_speech` choose it.

        Returns for speech the same as `SeamlessM4Tv2ForTextToSpeech.generate`, and for text a `GenerateOutput`;
        speaker_id and return_intermediate_token_ids have no effect on text.
        """
        text, speech = split_sides(kwargs)
        listens = _one_input(input_ids, input_features)
        mask = text.pop("attention_mask", None)
        sources = self._clips(input_features, mask) if listens else self._sentences(input_ids, mask)
        if not generate_speech:
            output = self._generate_text(sources, "s2tt" if listens else "t2tt", tgt_lang, text, as_dict=True)
            assert isinstance(output, GenerateOutput)
            return output
        task: Task = "s2st" if listens else "t2st"
        return self._generate_speech(sources, task, tgt_lang, speaker_id, return_intermediate_token_ids, text, speech)

    def forward(
        self,
        input_ids: Any = None,
        input_features: Any = None,
        attention_mask: Any = None,
        decoder_input_ids: Any = None,
        **kwargs: Any,
    ) -> LogitsOutput:
        """Logits after each of decoder_input_ids int64 [batch, T], for either input."""
        listens = _one_input(input_ids, input_features)
        sources = self._clips(input_features, attention_mask) if listens else self._sentences(input_ids, attention_mask)
        return self._logits(sources, decoder_input_ids, kwargs)


def _one_input(input_ids: Any, input_features: Any) -> bool:
    """Whether the input is speech."""
    if (input_ids is None) == (input_features is None):
        raise UsageError("give input_features, for speech, or input_ids, for text: one of the two")
    return input_ids is None
