"""The base of transformers' five classes: loading, and a batch through the engine."""

from __future__ import annotations

import abc
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from seamless_engine.config import EngineConfig
from seamless_engine.engine import Engine
from seamless_engine.errors import UsageError
from seamless_engine.hf import inputs
from seamless_engine.hf.arguments import Options, read_options, to_python
from seamless_engine.hf.config import GenerationConfig, SeamlessM4Tv2Config
from seamless_engine.hf.encoders import SpeechEncoder, TextEncoder
from seamless_engine.hf.loading import device_of, dtype_of, hub_arguments
from seamless_engine.hf.module import LazyEngine, ReadOnlyModule, check_neutral
from seamless_engine.hf.outputs import GenerateOutput, LogitsOutput, SpeechOutput, TokenScores
from seamless_engine.loading.loader import find_checkpoint
from seamless_engine.model_inputs import Features, Tokens
from seamless_engine.request import DecodingParams, Hypothesis, Request, Result, Task

Sources = Sequence[Features] | Sequence[Tokens]


class Pretrained(ReadOnlyModule):
    """`engine` is the `seamless_engine.Engine` that computes the results.

    generation_config: the fields of generation_config.json. A field that is set becomes a default of `generate`.
    name_or_path: the argument of `from_pretrained`.
    """

    tasks: ClassVar[tuple[Task, ...]]
    main_input_name: ClassVar[str]

    def __init__(
        self,
        config: SeamlessM4Tv2Config,
        loaded: LazyEngine | None = None,
        generation_config: GenerationConfig | None = None,
        name_or_path: str = "",
    ) -> None:
        if loaded is None or generation_config is None:
            raise UsageError(
                f"{type(self).__name__}(config) would have random weights: use from_pretrained(), with a checkpoint"
            )
        super().__init__(loaded, config)
        self.generation_config = generation_config
        self.name_or_path = name_or_path
        if "speech_encoder" in loaded.modules:
            self.speech_encoder = SpeechEncoder(loaded, config)
        if "text_encoder" in loaded.modules:
            self.text_encoder = TextEncoder(loaded, config)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        dtype: str | torch.dtype | None = None,
        torch_dtype: str | torch.dtype | None = None,
        device: str | int | torch.device | None = None,
        device_map: Any = None,
        options: EngineConfig | None = None,
        config: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Load the modules that this class needs.

        pretrained_model_name_or_path: a folder in the transformers format, or a hub id.
        dtype (or torch_dtype): None and "auto" are the checkpoint's dtype.
        device (or device_map): None and "auto" are CUDA if it is available, else the CPU.
        options: sizes of the engine; `reference` must be "transformers", because these classes compute what it does.
        config: must equal the checkpoint's own, if it is given.
        kwargs: arguments of transformers: cache_dir, force_download, local_files_only, revision, subfolder, token, for
            a hub id; attn_implementation and others, which have no effect.

        Raises CheckpointError for a checkpoint that cannot be used, UsageError for an argument that is not supported.
        """
        hub = hub_arguments(kwargs)
        if options is not None and options.reference != "transformers":
            raise UsageError(
                f"reference={options.reference!r}: these classes compute what transformers does; use "
                "seamless_engine.Engine for the other reference"
            )
        where = device_of(device, device_map)
        folder = find_checkpoint(pretrained_model_name_or_path, **hub)
        own = SeamlessM4Tv2Config.from_pretrained(folder)
        if config is not None:
            own.require_same(config)
        precision = dtype_of(dtype, torch_dtype, own.to_dict())
        engine = Engine.from_pretrained(folder, tasks=cls.tasks, device=where, dtype=precision, options=options)
        name = os.fspath(pretrained_model_name_or_path)
        return cls(own, LazyEngine(engine, folder), GenerationConfig.from_folder(folder), name)

    @property
    def engine(self) -> Engine:
        """Loads the checkpoint again if the model was moved since the last use."""
        return self._loaded.get()

    @property
    def folder(self) -> Path:
        """The checkpoint on this machine."""
        return self._loaded.folder

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes of the loaded weights, which may be packed or in 8 bits."""
        return sum(self.engine.weight_bytes.values())

    def can_generate(self) -> bool:
        return True

    def get_encoder(self, modality: Literal["text", "audio"] | None = None) -> SpeechEncoder | TextEncoder:
        """The text encoder, or the speech encoder of a class without a text encoder.

        modality: "text" or "audio", for the class with both encoders.
        """
        name = {"text": "text_encoder", "audio": "speech_encoder"}.get(modality or "")
        if name is None and modality is None:
            name = "text_encoder" if "text_encoder" in self._loaded.modules else "speech_encoder"
        if name not in self._loaded.modules:
            raise UsageError(f"{type(self).__name__} has no encoder of modality {modality!r}")
        return getattr(self, name)

    def compute_transition_scores(
        self, sequences: torch.Tensor, scores: Any, beam_indices: Any = None, normalize_logits: bool = False
    ) -> torch.Tensor:
        """float32 [R, S − 2]: log-probability of each generated token, then zeros.

        sequences, scores: of one output of `generate(..., return_dict_in_generate=True, output_scores=True)`.

        Raises UsageError without beams unless normalize_logits=True, and for parameters that change scores (penalties,
        bad words, sampling): only the model's own log-probabilities are kept, in `token_logprobs`.
        """
        if not isinstance(scores, TokenScores):
            raise UsageError("scores must be those of an output of this model; token_logprobs has the same numbers")
        return scores.transition_scores(len(sequences), normalize_logits)

    def __call__(self, *args: Any, **kwargs: Any) -> LogitsOutput:
        if "torch._dynamo" in sys.modules:  # the caller may have compiled the model: do not trace into the engine
            return torch.compiler.disable(super().__call__)(*args, **kwargs)  # pyright: ignore[reportReturnType]
        return super().__call__(*args, **kwargs)

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
        check_neutral("forward()", dict(kwargs), "it gives the logits after decoder_input_ids only")
        if decoder_input_ids is None:
            raise UsageError(
                "forward() needs decoder_input_ids, the tokens that the decoder reads; transformers fails without them "
                "as well. To transcribe or translate, call generate(..., tgt_lang=...)"
            )
        tokens = inputs.decoder_tokens(decoder_input_ids, len(sources), self.engine.config.vocab_size)
        logits = [self.engine.forced_logits(source, ids) for source, ids in zip(sources, tokens, strict=True)]
        return LogitsOutput(torch.stack(logits))

    def _generate_text(
        self, sources: Sources, task: Task, tgt_lang: str | None, kwargs: dict[str, Any], as_dict: bool = False
    ) -> torch.Tensor | GenerateOutput:
        """`generate` for a task that produces text. kwargs: arguments for the text, without the inputs."""
        prompt = kwargs.pop("decoder_input_ids", None)
        options = read_options(kwargs, self.generation_config, self.engine.config)
        output = self._text_output(self._run(sources, task, tgt_lang, prompt, options.params), options)
        return output if as_dict or options.return_dict else output.sequences

    def _generate_speech(
        self,
        sources: Sources,
        task: Task,
        tgt_lang: str | None,
        speaker_id: int | None,
        with_ids: bool | None,
        text: dict[str, Any],
        speech: dict[str, Any],
    ) -> tuple[torch.Tensor, torch.Tensor] | SpeechOutput:
        """`generate` for a task that produces speech. text, speech: as `split_sides` returns them, without the
        inputs."""
        prompt = text.pop("decoder_input_ids", None)
        options = read_options(text, self.generation_config, self.engine.config, speech)
        results = self._run(sources, task, tgt_lang, prompt, options.params, speaker_id)
        found = _hypotheses(results)
        audio = [torch.from_numpy(_present(hypothesis.audio)) for _, hypothesis in found]
        waveform = pad_sequence(audio, batch_first=True).to(self.device)
        # Without dimensions for one sequence, as in transformers.
        lengths = torch.tensor([len(samples) for samples in audio], device=self.device).squeeze(0)
        if not with_ids:
            return waveform, lengths
        config = self.engine.config
        # The engine maps several control ids of the T2U model to unit 1, so these cannot be told apart here.
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
        languages = self._languages(to_python(tgt_lang), prompt, len(sources))
        speaker_id = to_python(speaker_id)
        requests: list[Request] = []
        for source, code in zip(sources, languages, strict=True):
            if params.do_sample or params.speech_do_sample:  # torch.manual_seed makes samples repeatable
                params = replace(params, seed=int(torch.randint(2**31, (), device="cpu")))
            clip = source if isinstance(source, Features) else None
            text = source if isinstance(source, Tokens) else None
            requests.append(Request(task, code, audio=clip, text=text, speaker_id=speaker_id, params=params))
        results = self.engine.generate(requests)
        for index, result in enumerate(results):
            check_result(result, f"row {index} of the batch")
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
            output.sequences_scores = torch.tensor(
                [hypothesis.score for _, hypothesis in found], dtype=torch.float32, device=self.device
            )
        if options.params.return_token_logprobs:
            logprobs = self._padded([hypothesis.token_logprobs or [] for _, hypothesis in found], 0.0)
            output.token_logprobs, output.scores = logprobs, TokenScores(logprobs, options.params)
        for index, (_, hypothesis) in enumerate(found):
            if not options.other_ends.isdisjoint(hypothesis.tokens):
                warnings.warn(f"sequence {index} holds an eos_token_id that ends no text here", stacklevel=4)
        return output

    def _padded(self, sequences: Sequence[Sequence[float]], value: float) -> torch.Tensor:
        dtype = torch.float32 if isinstance(value, float) else torch.int64
        tensors = [torch.tensor(sequence, dtype=dtype, device="cpu") for sequence in sequences]
        return pad_sequence(tensors, batch_first=True, padding_value=value).to(self.device)


def check_result(result: Result, name: str) -> None:
    """Raises `result.error`, if there is one, with `name` in front of its message. Issues the result's warnings."""
    if result.error is not None:
        raise type(result.error)(f"{name}: {result.error}")
    for warning in result.warnings:
        warnings.warn(f"{name}: {warning}", stacklevel=5)


def _hypotheses(results: list[Result]) -> list[tuple[Result, Hypothesis]]:
    return [(result, hypothesis) for result in results for hypothesis in result.n_best]


def _present(array: np.ndarray | None) -> np.ndarray:
    assert array is not None, "a task with speech output"
    return array
