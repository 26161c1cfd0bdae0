"""ModelConfig, the sizes and tables of a checkpoint, and EngineConfig, how to run it."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from seamless_engine.errors import CheckpointError, UsageError
from seamless_engine.loading.config_files import FEATURES, NULLABLE, check_features, generation_values, read_json, typed
from seamless_engine.values import check_fields, integer, number, switch


@dataclass(frozen=True)
class TransformerDims:
    """Shape of one stack of pre-norm transformer layers."""

    layers: int
    heads: int
    ffn_dim: int


@dataclass(frozen=True)
class ModelConfig:
    """config.json and generation_config.json of a checkpoint in the transformers format.

    Field names and defaults are those of `SeamlessM4Tv2Config`. A field that the file leaves out has its default.
    """

    vocab_size: int = 256102
    t2u_vocab_size: int = 10082
    char_vocab_size: int = 10943
    hidden_size: int = 1024
    layer_norm_eps: float = 1e-5
    scale_embedding: bool = True
    activation_function: str = "relu"
    pad_token_id: int = 0
    bos_token_id: int = 2
    eos_token_id: int = 3
    decoder_start_token_id: int = 3

    encoder_layers: int = 24
    encoder_ffn_dim: int = 8192
    encoder_attention_heads: int = 16
    decoder_layers: int = 24
    decoder_ffn_dim: int = 8192
    decoder_attention_heads: int = 16
    max_position_embeddings: int = 4096

    speech_encoder_layers: int = 24
    speech_encoder_attention_heads: int = 16
    speech_encoder_intermediate_size: int = 4096
    speech_encoder_hidden_act: str = "swish"
    feature_projection_input_dim: int = 160
    add_adapter: bool = True
    num_adapter_layers: int = 1
    adaptor_kernel_size: int = 8
    adaptor_stride: int = 8
    position_embeddings_type: str = "relative_key"
    left_max_position_embeddings: int = 64
    right_max_position_embeddings: int = 8
    conv_depthwise_kernel_size: int = 31
    speech_encoder_chunk_size: int = 20000
    speech_encoder_left_chunk_num: int = 128

    t2u_bos_token_id: int = 0
    t2u_pad_token_id: int = 1
    t2u_eos_token_id: int = 2
    t2u_encoder_layers: int = 6
    t2u_encoder_ffn_dim: int = 8192
    t2u_encoder_attention_heads: int = 16
    t2u_decoder_layers: int = 6
    t2u_decoder_attention_heads: int = 16
    t2u_variance_predictor_embed_dim: int = 1024
    t2u_variance_predictor_hidden_dim: int = 256
    t2u_variance_predictor_kernel_size: int = 3

    sampling_rate: int = 16000
    upsample_initial_channel: int = 512
    upsample_rates: tuple[int, ...] = (5, 4, 4, 2, 2)
    upsample_kernel_sizes: tuple[int, ...] = (11, 8, 8, 4, 4)
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    leaky_relu_slope: float = 0.1
    unit_hifi_gan_vocab_size: int = 10000
    unit_embed_dim: int = 1280
    lang_embed_dim: int = 256
    spkr_embed_dim: int = 256
    vocoder_num_langs: int = 36
    vocoder_num_spkrs: int = 200
    variance_predictor_kernel_size: int = 3
    vocoder_offset: int = 4

    # from generation_config.json
    max_new_tokens: int = 256
    text_lang_ids: Mapping[str, int] = field(default_factory=dict)
    t2u_langs: frozenset[str] = frozenset()
    vocoder_lang_ids: Mapping[str, int] = field(default_factory=dict)
    id_to_text: Mapping[int, str] = field(default_factory=dict)
    char_to_id: Mapping[str, int] = field(default_factory=dict)

    @property
    def text_encoder(self) -> TransformerDims:
        return TransformerDims(self.encoder_layers, self.encoder_attention_heads, self.encoder_ffn_dim)

    @property
    def text_decoder(self) -> TransformerDims:
        return TransformerDims(self.decoder_layers, self.decoder_attention_heads, self.decoder_ffn_dim)

    @property
    def t2u_encoder(self) -> TransformerDims:
        return TransformerDims(self.t2u_encoder_layers, self.t2u_encoder_attention_heads, self.t2u_encoder_ffn_dim)

    @property
    def embed_scale(self) -> float:
        return math.sqrt(self.hidden_size) if self.scale_embedding else 1.0

    @property
    def num_relative_positions(self) -> int:
        return self.left_max_position_embeddings + self.right_max_position_embeddings + 1

    @property
    def samples_per_frame(self) -> int:
        return math.prod(self.upsample_rates)

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> ModelConfig:
        """Read the json files. Raises CheckpointError that names the file and the wrong field."""
        folder = Path(folder)
        path = folder / "config.json"
        raw = read_json(path)
        if raw.get("model_type", "seamless_m4t_v2") != "seamless_m4t_v2":
            raise CheckpointError(f"{path}: model_type is {raw['model_type']!r}, not 'seamless_m4t_v2'")
        values = generation_values(folder / "generation_config.json")
        for spec in dataclasses.fields(cls):
            name, value = spec.name, raw.get(spec.name)
            if name in raw and name not in values and not (value is None and name in NULLABLE):
                values[name] = typed(path, name, value, spec.default)
        config = cls(**values)
        config._check(path)
        check_features(folder)
        return config

    def _check(self, path: Path) -> None:
        heads = {
            "encoder_attention_heads": self.encoder_attention_heads,
            "decoder_attention_heads": self.decoder_attention_heads,
            "speech_encoder_attention_heads": self.speech_encoder_attention_heads,
            "t2u_encoder_attention_heads": self.t2u_encoder_attention_heads,
            "t2u_decoder_attention_heads": self.t2u_decoder_attention_heads,
        }
        for name, count in heads.items():
            if self.hidden_size % count:
                raise CheckpointError(f"{path}: hidden_size {self.hidden_size} is not a multiple of {name} {count}")
        supported = {
            "position_embeddings_type": "relative_key",
            "activation_function": "relu",
            "add_adapter": True,
            "num_adapter_layers": 1,
            "feature_projection_input_dim": FEATURES["num_mel_bins"] * FEATURES["stride"],
        }
        for name, value in supported.items():
            if getattr(self, name) != value:
                raise CheckpointError(f"{path}: {name} is {getattr(self, name)!r}; this engine supports {value!r} only")
        if self.speech_encoder_hidden_act not in ("swish", "silu"):
            raise CheckpointError(
                f"{path}: speech_encoder_hidden_act is {self.speech_encoder_hidden_act!r}, not 'swish'"
            )
        if self.adaptor_kernel_size != self.adaptor_stride or self.adaptor_stride % 2:
            raise CheckpointError(f"{path}: the adapter needs adaptor_kernel_size == adaptor_stride, an even number")
        stages = (len(self.upsample_rates), len(self.resblock_kernel_sizes))
        if (len(self.upsample_kernel_sizes), len(self.resblock_dilation_sizes)) != stages:
            raise CheckpointError(f"{path}: upsample_* and resblock_* lists differ in length")
        for rate, kernel in zip(self.upsample_rates, self.upsample_kernel_sizes, strict=True):
            if kernel < rate or (kernel - rate) % 2:
                raise CheckpointError(
                    f"{path}: upsample_kernel_sizes {kernel} does not multiply the length by upsample_rates {rate}"
                )


Reference = Literal["transformers", "meta"]
INT8_MODULES = ("speech_encoder", "text_encoder", "text_decoder", "t2u_model")


@dataclass(frozen=True)
class EngineConfig:
    """How to run a model. The sizes bound memory and change no result; `int8` and `reference` change results.

    max_num_seqs: hypotheses (requests × beams) in a decode step.
    num_slots: positions in the key/value pool; None sizes it from `memory_fraction` of the memory that passes leave
        free.
    max_source_tokens, max_new_tokens: upper limits for the encoder states and the generated tokens of a request.
    max_bad_word_tokens: upper limit for the suppressed tokens and bad words of a request, counted in tokens.
    max_audio_seconds: upper limit for the length of a clip that is not cut into segments.
    max_recording_seconds: upper limit for the length of one that is; an hour takes 230 MB while it is read.
    max_encoder_tokens: packed frames (20 ms of audio) or tokens in an encoder pass.
    max_synthesis_tokens: text tokens in a synthesis pass (a token is about 14 units, 0.3 s of speech); None is 1,200 on
        a GPU, and 64 on a CPU, which more tokens do not make faster.
    cuda_graphs: on a GPU, replay a decode step, and a small encoder or synthesis pass, as a captured CUDA graph; False
        launches every kernel from the host.
    int8: modules whose matrix products are in 8 bits, of speech_encoder, text_encoder, text_decoder and t2u_model.
        Results change a little; docs/performance.md has the figures.
    decode_processes: processes that decode and resample audio files, side by side: a decoder that crashes, hangs or
        takes all memory loses one file. 0 decodes in threads of this process.
    decode_timeout: seconds after which such a process is ended, and its file given up.
    reference: the implementation whose results the networks give, where two differ: "transformers", or "meta", with
        which the published weights were trained. docs/as-trained.md has the differences.
    """

    max_num_seqs: int = 320
    num_slots: int | None = None
    memory_fraction: float = 0.5
    max_source_tokens: int = 4096
    max_new_tokens: int = 1024
    max_bad_word_tokens: int = 1024
    max_audio_seconds: float = 600.0
    max_recording_seconds: float = 14_400.0
    max_encoder_tokens: int = 16_000
    max_synthesis_tokens: int | None = None
    cuda_graphs: bool = True
    int8: tuple[str, ...] = ()
    decode_processes: int = 0
    decode_timeout: float = 600.0
    reference: Reference = "transformers"

    def __post_init__(self) -> None:
        check_fields(self, _CHECKS, _OPTIONAL)


def _int8_modules(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(module in INT8_MODULES for module in value):
        raise UsageError(f"{name} must be a list of modules, of {', '.join(INT8_MODULES)}, not {value!r}")
    return tuple(value)


def _reference(name: str, value: Any) -> Reference:
    if not isinstance(value, str) or value not in get_args(Reference):
        raise UsageError(f'reference must be "transformers" or "meta", not {value!r}')
    return value  # pyright: ignore[reportReturnType]


_OPTIONAL = ("num_slots", "max_synthesis_tokens")
_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(
        "max_num_seqs max_source_tokens max_new_tokens max_bad_word_tokens max_encoder_tokens "
        "max_synthesis_tokens".split(),
        partial(integer, low=1),
    ),
    "num_slots": partial(integer, low=32),
    "decode_processes": partial(integer, low=0, high=1024),
    "decode_timeout": partial(number, low=1e-3, high=1e6),
    "memory_fraction": partial(number, low=1e-9, high=1.0),
    **dict.fromkeys(("max_audio_seconds", "max_recording_seconds"), partial(number, low=1e-9, high=1e9)),
    "cuda_graphs": switch,
    "int8": _int8_modules,
    "reference": _reference,
}
