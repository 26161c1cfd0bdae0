"""transformers' TextToAudioPipeline, computed by the engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seamless_engine.errors import UsageError
from seamless_engine.hf.arguments import check_names, read_options, split_sides, to_python
from seamless_engine.hf.models import SeamlessM4Tv2ForTextToSpeech
from seamless_engine.hf.pipeline_base import Item, Pipeline
from seamless_engine.request import Request, Result

_OWN = ("tgt_lang", "src_lang", "speaker_id", "return_intermediate_token_ids")  # besides those that generate() checks
_NESTED = ("forward_params", "generate_kwargs")  # the second one takes precedence


class TextToSpeechPipeline(Pipeline):
    """Counterpart of transformers' TextToAudioPipeline."""

    task = "text-to-speech"
    needs = "t2st"
    model_class = SeamlessM4Tv2ForTextToSpeech
    noun = "sentence"

    def __init__(self, model: Any, parts: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
        super().__init__(model, parts, arguments)
        self.sampling_rate = model.config.sampling_rate

    def __call__(self, text_inputs: Any, **arguments: Any) -> Any:
        """{"audio": float32 [samples], "sampling_rate": 16000} for a sentence; a list of them for a list or tuple; an
        iterator over them for a generator or a data set.

        arguments: tgt_lang, which is required here or when the pipeline is made, speaker_id, and those of
            `SeamlessM4Tv2ForTextToSpeech.generate`, in `forward_params`, in `generate_kwargs` or by name; src_lang in
            `preprocess_params`, by default that of the tokenizer that was given, else "eng"; batch_size and
            num_workers, which have no effect.

        Raises UsageError for an argument without a counterpart.
        """
        chosen = self._arguments | self.named(arguments)
        chosen.pop("return_intermediate_token_ids", None)
        source = chosen.pop("src_lang", None) or getattr(self._given("tokenizer"), "src_lang", None) or "eng"
        target, speaker = chosen.pop("tgt_lang", None), to_python(chosen.pop("speaker_id", None))
        if target is None:
            raise UsageError(
                'tgt_lang is missing: the code of the language to speak, for example forward_params={"tgt_lang": "fra"}'
            )
        text, speech = split_sides(chosen)
        options = read_options(text, self.model.generation_config, self.model.engine.config, speech)
        if options.params.num_return_sequences > 1:
            raise UsageError("num_return_sequences is not supported by the pipeline: it returns one answer")

        def item(sentence: Any) -> Item:
            request = Request("t2st", target, text=sentence, src_lang=source, speaker_id=speaker, params=options.params)
            return Item([request], self._finish)

        return self._answer(text_inputs, isinstance(text_inputs, str), item)

    def _finish(self, results: list[Result]) -> dict[str, Any]:
        return {"audio": results[0].audio, "sampling_rate": self.sampling_rate}

    @staticmethod
    def named(arguments: Mapping[str, Any]) -> dict[str, Any]:
        named = {name: value for name, value in arguments.items() if name not in ("batch_size", "num_workers")}
        before = named.pop("preprocess_params", None) or {}
        unknown = set(before) - {"src_lang"}
        if unknown:
            raise UsageError(f"preprocess_params may hold src_lang, not {', '.join(sorted(unknown))}")
        for holder in _NESTED:
            named |= named.pop(holder, None) or {}
        check_names(split_sides({name: value for name, value in named.items() if name not in _OWN})[0])
        return before | named
