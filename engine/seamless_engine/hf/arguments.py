"""Keyword arguments of transformers' `generate` → `DecodingParams`. An argument without a counterpart raises
UsageError.

docs/transformers-arguments.md lists every argument; a test compares it with this file.
"""

from __future__ import annotations

import dataclasses
import difflib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from seamless_engine.block_manager import PROMPT_LENGTH
from seamless_engine.config import ModelConfig
from seamless_engine.errors import UsageError
from seamless_engine.request import DecodingParams

_FIELDS = (
    "num_beams max_new_tokens min_new_tokens length_penalty early_stopping do_sample temperature top_k top_p "
    "repetition_penalty no_repeat_ngram_size bad_words_ids suppress_tokens num_return_sequences"
).split()
_SAMPLING = ("temperature", "top_k", "top_p")
_OUTPUT = ("return_dict_in_generate", "output_scores")
_NO_EFFECT = ("use_cache", "return_legacy_cache", "disable_compile")
_SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
# Refused arguments, each with a value that has no effect. None, False and empty values have no effect either.
_REFUSED: dict[str, Any] = dict.fromkeys(
    "assistant_early_exit assistant_ensemble_weight assistant_model assistant_tokenizer begin_suppress_tokens "
    "cache_config compile_config constraints continuous_batching_config custom_generate decoder_attention_mask "
    "decoder_inputs_embeds dola_layers encoder_outputs exponential_decay_length_penalty force_words_ids "
    "forced_bos_token_id forced_eos_token_id generation_kwargs guidance_scale inputs_embeds is_assistant "
    "logits_processor low_memory max_cache_len max_matching_ngram_size max_time min_p negative_prompt_attention_mask "
    "negative_prompt_ids output_attentions output_hidden_states output_logits past_key_values penalty_alpha "
    "prefill_chunk_size prefix_allowed_tokens_fn prompt_lookup_num_tokens remove_invalid_values renormalize_logits "
    "sequence_bias speculation_type stop_strings stopping_criteria streamer synced_gpus token_healing tokenizer top_h "
    "use_mtp watermarking_config".split()
)
_REFUSED |= {
    "assistant_confidence_threshold": 0.4,
    "assistant_lookbehind": 10,
    "cache_implementation": "dynamic",
    "diversity_penalty": 0.0,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "guidance_scale": 1.0,
    "min_p": 0.0,
    "num_assistant_tokens": 20,
    "num_assistant_tokens_schedule": "constant",
    "num_beam_groups": 1,
    "target_lookbehind": 10,
    "typical_p": 1.0,
}
_INSTEAD = {
    "encoder_outputs": "give the input, which is encoded once",
    "forced_bos_token_id": "tgt_lang names the language",
    "inputs_embeds": "give the input",
    "logits_processor": "bad_words_ids, suppress_tokens and repetition_penalty change what is chosen",
    "max_time": "timeout of a seamless_engine.Request ends it",
    "min_p": "top_p and top_k cut the distribution",
    "output_attentions": "attention is never stored",
    "output_hidden_states": "model.get_encoder() gives the last hidden state of the encoder",
    "output_logits": "model(...) returns the logits of given tokens",
    "stop_strings": "max_new_tokens ends a text",
    "stopping_criteria": "max_new_tokens ends a text",
    "streamer": "seamless_engine.Engine.stream yields results as they are done",
    "typical_p": "top_p and top_k cut the distribution",
}
_ELSEWHERE = {
    "audio": "an audio file or array is for the processor, or for model.engine",
    "audios": "an audio file or array is for the processor, or for model.engine",
    "generate_speech": "this class does one thing; SeamlessM4Tv2Model has the argument",
    "language": "tgt_lang names the language to produce",
    "sampling_rate": "the sampling rate is for the processor",
    "src_lang": "the source language is for the processor",
    "task": "the class says the task, and tgt_lang the language",
    "text": "a sentence is for the processor, or for model.engine",
}
_OWN_IDS = "the checkpoint's own is the only one"
_LENGTHS = ("max_length", "min_length")
KNOWN = frozenset([*_FIELDS, *_OUTPUT, *_NO_EFFECT, *_SPECIAL_IDS, *_REFUSED, *_LENGTHS])


@dataclass(frozen=True)
class Options:
    """The keyword arguments of one call, for the text.

    other_ends: ids that would end a text in transformers, and do not here.
    """

    params: DecodingParams
    return_dict: bool
    scores: bool
    other_ends: frozenset[int]


def to_python(value: Any) -> Any:
    """Scalars of NumPy and torch become Python numbers, arrays become lists."""
    if isinstance(value, np.generic | np.ndarray | torch.Tensor):
        return value.tolist()
    return [to_python(entry) for entry in value] if type(value) in (list, tuple) else value


def split_sides(kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments for the text, and those for the speech, which are `do_sample` and `temperature` only.

    `text_x` is for the text, `speech_x` for the speech, and x for both unless there is one with a prefix.
    `generation_config` is for the text. Raises UsageError for a `speech_` argument that would have no effect.
    """
    text = {name: value for name, value in kwargs.items() if not name.startswith(("text_", "speech_"))}
    speech = {name: text[name] for name in ("do_sample", "temperature") if name in text}
    for name, value in kwargs.items():
        side, _, argument = name.partition("_")
        if side == "text":
            text[argument] = value
        elif side == "speech" and argument in ("do_sample", "temperature"):
            speech[argument] = value
        elif side == "speech" and not _is_neutral(argument, to_python(value)):
            raise UsageError(f"{name} has no effect: units take speech_do_sample and speech_temperature, nothing else")
    return text, speech


def read_options(
    kwargs: Mapping[str, Any], own: SimpleNamespace, config: ModelConfig, speech: Mapping[str, Any] | None = None
) -> Options:
    """The arguments of `generate` as `Options`.

    kwargs: arguments for the text.
    own: the model's generation_config, for the defaults.
    speech: arguments for the speech, from `split_sides`.

    Raises UsageError that names an argument which is unknown, not supported or out of range.
    """
    given = _merge(kwargs, own)
    check_names(given)
    for name, value in given.items():
        _check(name, value, config)
    fields = {name: given[name] for name in _FIELDS if name in given}
    for name in ("bad_words_ids", "suppress_tokens"):
        if name in fields and len(fields[name]) == 0:
            del fields[name]
    if "min_length" in given:
        fields.setdefault("min_new_tokens", max(0, given["min_length"] - PROMPT_LENGTH))  # min_length counts the prompt
    if not fields.get("do_sample"):
        defaults = DecodingParams()
        for name in _SAMPLING:
            if fields.pop(name, getattr(defaults, name)) != getattr(defaults, name):
                warnings.warn(f"{name} has no effect without do_sample=True", stacklevel=4)
    if given.get("max_length", 20) != 20:  # 20 is the default in the files of older transformers
        warnings.warn("max_length has no effect, as in transformers: use max_new_tokens", stacklevel=4)
    units = {name: to_python(value) for name, value in (speech or {}).items()}
    if units.get("do_sample") and units.get("temperature") is not None:
        fields |= {"speech_do_sample": True, "speech_temperature": units["temperature"]}
    scores = bool(given.get("output_scores"))
    params = DecodingParams(**fields, return_token_logprobs=scores)
    ends = given.get("eos_token_id", config.eos_token_id)
    other_ends = frozenset(ends) - {config.eos_token_id} if isinstance(ends, list) else frozenset()
    return Options(params, bool(given.get("return_dict_in_generate")), scores, other_ends)


def _merge(kwargs: Mapping[str, Any], own: SimpleNamespace) -> dict[str, Any]:
    """The keyword arguments, then those of the argument `generation_config`, then the model's own. None is not
    given."""
    named = dict(kwargs)
    config = named.pop("generation_config", None)
    chosen = {} if config is None else dict(config) if isinstance(config, Mapping) else vars(config)
    chosen = {name: value for name, value in chosen.items() if name in KNOWN or name not in vars(own)}
    chosen.pop("transformers_version", None)
    layers = (
        {name: value for name, value in vars(own).items() if name in KNOWN},
        {name: value for name, value in chosen.items() if not name.startswith("_")},
        named,
    )
    return {name: to_python(value) for layer in layers for name, value in layer.items() if value is not None}


def _check(name: str, value: Any, config: ModelConfig) -> None:
    if name in _SPECIAL_IDS:
        own = getattr(config, name)
        special = {getattr(config, other) for other in _SPECIAL_IDS}
        # transformers writes several ends into some files; all but the first are ids that a text never has.
        several = name == "eos_token_id" and isinstance(value, list) and {own} <= set(value) <= special
        if value not in (own, [own]) and not several:
            raise UsageError(f"{name}={value!r} is not supported: {_OWN_IDS}, {getattr(config, name)}")
    elif name in _REFUSED:
        if not _has_no_effect(value, _REFUSED[name]):
            hint = f"; {_INSTEAD[name]}" if name in _INSTEAD else ""
            raise UsageError(f"{name} is not supported{hint}")


def check_names(arguments: Mapping[str, Any]) -> None:
    """Raises UsageError for an argument that `generate` does not have for the text. None is not given."""
    for name, value in arguments.items():
        if value is None or name in KNOWN or name == "generation_config":
            continue
        if name in {field.name for field in dataclasses.fields(DecodingParams)}:
            raise UsageError(f"{name} is not an argument of generate(): give it to model.engine in DecodingParams")
        if name in _ELSEWHERE:
            raise UsageError(f"generate() has no argument {name!r}: {_ELSEWHERE[name]}")
        nearest = difflib.get_close_matches(name, sorted(KNOWN), n=1)
        raise UsageError(
            f"generate() has no argument {name!r}" + (f": did you mean {nearest[0]!r}?" if nearest else "")
        )


def _is_neutral(name: str, value: Any) -> bool:
    """Whether an argument of `generate` has the value that has no effect."""
    neutral = {field.name: field.default for field in dataclasses.fields(DecodingParams)} | _REFUSED
    return value is None or name in _NO_EFFECT or (name in KNOWN and _has_no_effect(value, neutral.get(name)))


def _has_no_effect(value: Any, neutral: Any) -> bool:
    if value is False or (isinstance(value, list | tuple | dict | str) and len(value) == 0):
        return True
    return neutral is not None and isinstance(value, int | float | str) and value == neutral
