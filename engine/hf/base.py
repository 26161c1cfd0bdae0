"""What transformers' five classes share: loading, and one batch through the engine."""

from __future__ import annotations

import abc
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from seamless_engine import errors
from seamless_engine.config import EngineConfig
from seamless_engine.engine import Engine
from seamless_engine.errors import SeamlessError, UsageError
from seamless_engine.hf import inputs
from seamless_engine.hf.arguments import Options, read_options
from seamless_engine.hf.config import SeamlessM4Tv2Config
from seamless_engine.hf.loading import check_load_arguments, check_unmoved, device_of, dtype_of
from seamless_engine.hf.outputs import GenerateOutput, LogitsOutput, SpeechOutput
from seamless_engine.loader import find_checkpoint
from seamless_engine.prepared import Features, Tokens
from seamless_engine.request import DecodingParams, Hypothesis, Request, Result, Task

Sources = Sequence[Features] | Sequence[Tokens]

_FORWARD_NEUTRAL = {"use_cache": False, "output_attentions": False, "output_hidden_states": False, "return_dict": True}


class Pretrained(abc.ABC):
    """`engine` is the `seamless_engine.Engine` that does the work.

    generation_config: the fields of generation_config.json; those that are set on it become defaults of `generate`.
    """

    tasks: ClassVar[tuple[Task, ...]]
    main_input_name: ClassVar[str]

    def __init__(self, engine: Engine, config: SeamlessM4Tv2Config, generation_config: SimpleNamespace) -> None:
        self.engine = engine
        self.config = config
        self.generation_config = generation_config

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        dtype: str | torch.dtype | None = None,
        torch_dtype: str | torch.dtype | None = None,
        device: str | int | torch.device | None = None,
        device_map: Any = None,
        attn_implementation: str | None = None,
        options: EngineConfig | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load the modules that this class needs.

        path: a folder in the transformers format, or a hub id.
        dtype (or torch_dtype): None and "auto" take the checkpoint's own.
        device (or device_map): None and "auto" take CUDA where there is one, else the CPU. The model stays there.
        attn_implementation: None, "sdpa" or "eager", which mean the same here.
        options: sizes of the engine.

        Raises CheckpointError for a checkpoint that cannot be used, UsageError for an argument that cannot.
        """
        check_load_arguments(kwargs, attn_implementation)
        where = device_of(device, device_map)
        folder = find_checkpoint(path)
        config = SeamlessM4Tv2Config.from_pretrained(folder)
        precision = dtype_of(dtype, torch_dtype, config)
        engine = Engine.from_pretrained(folder, tasks=cls.tasks, device=where, dtype=precision, options=options)
        generation = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
        return cls(engine, config, SimpleNamespace(**generation))

    @property
    def device(self) -> torch.device:
        return self.engine.device

    @property
    def dtype(self) -> torch.dtype:
        return self.engine.dtype

    def eval(self) -> Self:
        return self

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Does nothing if the model is there already. Raises UsageError if not: device and dtype belong to loading."""
        for wanted in (*args, *(value for name, value in kwargs.items() if name in ("device", "dtype"))):
            check_unmoved(wanted, self.device, self.dtype)
        return self

    def cuda(self) -> Self:
        return self.to("cuda")

    def half(self) -> Self:
        return self.to(torch.float16)

    def __call__(self, *args: Any, **kwargs: Any) -> LogitsOutput:
        return self.forward(*args, **kwargs)

    @abc.abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> LogitsOutput: ...

    def _clips(self, features: Any, mask: Any) -> list[Features]:
        return inputs.clips(features, mask, self.engine.config.feature_projection_input_dim)

    def _sentences(self, ids: Any, mask: Any) -> list[Tokens]:
        config = self.engine.config
        found = inputs.sentences(ids, mask, config.pad_token_id, config.vocab_size)
        if not {sentence.ids[0] for sentence in found} <= set(config.text_lang_ids.values()):
            warnings.warn("a row of input_ids begins with no language: did the processor know src_lang?", stacklevel=3)
        return found

    def _logits(self, sources: Sources, decoder_input_ids: Any, kwargs: Mapping[str, Any]) -> LogitsOutput:
        for name, value in kwargs.items():
            if value is not None and (name not in _FORWARD_NEUTRAL or value is not _FORWARD_NEUTRAL[name]):
                raise UsageError(f"forward() does not support {name}: it gives the logits after decoder_input_ids only")
        if decoder_input_ids is None:
            raise UsageError(
                "forward() needs decoder_input_ids, the tokens that the decoder reads; transformers fails without them "
                "as well. To transcribe or translate, call generate(..., tgt_lang=...)"
            )
        tokens = inputs.decoder_tokens(decoder_input_ids, len(sources), self.engine.config.vocab_size)
        rows = [self.engine.forced_logits(source, ids) for source, ids in zip(sources, tokens, strict=True)]
        return LogitsOutput(torch.stack(rows))

    def _write(
        self, sources: Sources, task: Task, tgt_lang: str | None, kwargs: dict[str, Any], as_dict: bool = False
    ) -> torch.Tensor | GenerateOutput:
        """`generate` of a task with text output. kwargs: of the text side, without the inputs."""
        prompt = kwargs.pop("decoder_input_ids", None)
        options = read_options(kwargs, self.generation_config, self.engine.config)
        output = self._text_output(self._run(sources, task, tgt_lang, prompt, options.params), options)
        return output if as_dict or options.return_dict else output.sequences

    def _speak(
        self,
        sources: Sources,
        task: Task,
        tgt_lang: str | None,
        speaker_id: int | None,
        with_ids: bool | None,
        text: dict[str, Any],
        speech: dict[str, Any],
    ) -> tuple[torch.Tensor, torch.Tensor] | SpeechOutput:
        """`generate` of a task with speech output. text, speech: of `split_sides`, without the inputs."""
        prompt = text.pop("decoder_input_ids", None)
        options = read_options(text, self.generation_config, self.engine.config, speech)
        results = self._run(sources, task, tgt_lang, prompt, options.params, speaker_id)
        found = _hypotheses(results)
        audio = [torch.from_numpy(_present(hypothesis.audio)) for _, hypothesis in found]
        waveform = pad_sequence(audio, batch_first=True).to(self.device)
        # A scalar for one sequence, as in transformers.
        lengths = torch.tensor([len(samples) for samples in audio], device=self.device).squeeze(0)
        if not with_ids:
            return waveform, lengths
        config = self.engine.config
        # The vocoder's unit 1 may have been another control id of the T2U model, which is no longer known.
        units = [(_present(hypothesis.units) + config.vocoder_offset).tolist() for _, hypothesis in found]
        unit_sequences = self._padded(units, config.t2u_pad_token_id)
        return SpeechOutput(waveform, lengths, self._text_output(results, options).sequences, unit_sequences)

    def _run(
        self,
        sources: Sources,
        task: Task,
        tgt_lang: str | None,
        prompt: Any,
        params: DecodingParams,
        speaker_id: int | None = None,
    ) -> list[Result]:
        languages = self._languages(tgt_lang, prompt, len(sources))
        requests: list[Request] = []
        for source, code in zip(sources, languages, strict=True):
            if params.do_sample or params.speech_do_sample:  # as there, torch.manual_seed makes draws repeatable
                params = replace(params, seed=int(torch.randint(2**31, ())))
            clip = source if isinstance(source, Features) else None
            text = source if isinstance(source, Tokens) else None
            requests.append(Request(task, code, audio=clip, text=text, speaker_id=speaker_id, params=params))
        results = self.engine.generate(requests)
        for row, result in enumerate(results):
            check_result(result, f"row {row} of the batch")
        return results

    def _languages(self, tgt_lang: str | None, prompt: Any, batch: int) -> list[str]:
        if tgt_lang is not None and prompt is not None:
            raise UsageError("tgt_lang and decoder_input_ids both say the language: give one of them")
        if tgt_lang is not None:
            return [tgt_lang] * batch
        if prompt is None:
            raise UsageError("tgt_lang is missing: the code of the language to produce, for example 'fra'")
        config = self.engine.config
        codes = {index: code for code, index in config.text_lang_ids.items()}
        return inputs.prompt_languages(prompt, batch, config.decoder_start_token_id, codes)

    def _text_output(self, results: list[Result], options: Options) -> GenerateOutput:
        config = self.engine.config
        found = _hypotheses(results)
        prompts = [[config.decoder_start_token_id, config.text_lang_ids[result.tgt_lang]] for result, _ in found]
        sequences = [prompt + hypothesis.tokens for prompt, (_, hypothesis) in zip(prompts, found, strict=True)]
        output = GenerateOutput(self._padded(sequences, config.pad_token_id))
        if options.params.num_beams > 1:
            output.sequences_scores = torch.tensor([hypothesis.score for _, hypothesis in found], device=self.device)
        if options.params.return_token_logprobs:
            output.token_logprobs = self._padded([hypothesis.token_logprobs or [] for _, hypothesis in found], 0.0)
        return output

    def _padded(self, rows: Sequence[Sequence[float]], value: float) -> torch.Tensor:
        dtype = torch.float32 if isinstance(value, float) else torch.int64
        return pad_sequence([torch.tensor(row, dtype=dtype) for row in rows], True, value).to(self.device)


def check_result(result: Result, name: str) -> None:
    """Raises the exception that `result.error` tells of, if there is one; warns of what it warns of."""
    if result.error is not None:
        kind, _, message = result.error.partition(": ")
        raise getattr(errors, kind, SeamlessError)(f"{name}: {message}")
    for warning in result.warnings:
        warnings.warn(f"{name}: {warning}", stacklevel=5)


def _hypotheses(results: list[Result]) -> list[tuple[Result, Hypothesis]]:
    return [(result, hypothesis) for result in results for hypothesis in result.n_best]


def _present(array: np.ndarray | None) -> np.ndarray:
    assert array is not None, "a task with speech output"
    return array
