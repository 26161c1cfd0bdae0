"""The names and shapes of all tensors of a checkpoint, for the loader and for the builder of random checkpoints."""

from __future__ import annotations

from collections.abc import Iterable

from seamless_engine.config import ModelConfig, TransformerDims

Shapes = dict[str, tuple[int, ...]]

# Names of tied tensors; the published checkpoint stores the first one.
SHARED_NAMES = (
    "shared.weight",
    "text_encoder.embed_tokens.weight",
    "text_decoder.embed_tokens.weight",
    "lm_head.weight",
)
UNIT_NAMES = ("t2u_model.model.decoder.embed_tokens.weight", "t2u_model.lm_head.weight")

MODULES = ("shared", "speech_encoder", "text_encoder", "text_decoder", "t2u_model", "vocoder")


def tensor_shapes(config: ModelConfig, modules: Iterable[str] = MODULES) -> Shapes:
    """Names and shapes of the tensors of `modules`, tied tensors once, vocoder convolutions without weight norm.

    Linear weights are [out, in], Conv1d [out, in / groups, kernel], ConvTranspose1d [in, out, kernel].
    """
    tables = {
        "shared": lambda: {SHARED_NAMES[0]: (config.vocab_size, config.hidden_size)},
        "speech_encoder": lambda: _speech_encoder(config),
        "text_encoder": lambda: _text_encoder("text_encoder", config.hidden_size, config.text_encoder),
        "text_decoder": lambda: _text_decoder("text_decoder", config.hidden_size, config.text_decoder),
        "t2u_model": lambda: _t2u(config),
        "vocoder": lambda: _vocoder(config),
    }
    return {name: shape for module in modules for name, shape in tables[module]().items()}


def vocoder_convolutions(config: ModelConfig) -> list[str]:
    """Prefixes of the 97 convolutions (at v2-large) that carry weight norm in training."""
    shapes = _vocoder(config)
    return [name.removesuffix(".weight") for name in shapes if ".hifi_gan." in name and name.endswith(".weight")]


def _norm(name: str, dim: int) -> Shapes:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def _linear(name: str, out_dim: int, in_dim: int) -> Shapes:
    return {f"{name}.weight": (out_dim, in_dim), f"{name}.bias": (out_dim,)}


def _conv(name: str, out_dim: int, in_dim: int, kernel: int) -> Shapes:
    return {f"{name}.weight": (out_dim, in_dim, kernel), f"{name}.bias": (out_dim,)}


def _attention(name: str, hidden: int, projections: Iterable[str]) -> Shapes:
    shapes: Shapes = {}
    for projection in projections:
        shapes |= _linear(f"{name}.{projection}", hidden, hidden)
    return shapes


_TEXT_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
_SPEECH_PROJECTIONS = ("linear_q", "linear_k", "linear_v", "linear_out")


def _text_encoder(name: str, hidden: int, dims: TransformerDims) -> Shapes:
    shapes: Shapes = {}
    for i in range(dims.layers):
        layer = f"{name}.layers.{i}"
        shapes |= _attention(f"{layer}.self_attn", hidden, _TEXT_PROJECTIONS)
        shapes |= _norm(f"{layer}.self_attn_layer_norm", hidden)
        shapes |= _linear(f"{layer}.ffn.fc1", dims.ffn_dim, hidden)
        shapes |= _linear(f"{layer}.ffn.fc2", hidden, dims.ffn_dim)
        shapes |= _norm(f"{layer}.ffn_layer_norm", hidden)
    return shapes | _norm(f"{name}.layer_norm", hidden)


def _text_decoder(name: str, hidden: int, dims: TransformerDims) -> Shapes:
    shapes = _text_encoder(name, hidden, dims)
    for i in range(dims.layers):
        layer = f"{name}.layers.{i}"
        shapes |= _attention(f"{layer}.cross_attention", hidden, _TEXT_PROJECTIONS)
        shapes |= _norm(f"{layer}.cross_attention_layer_norm", hidden)
    return shapes


def _speech_encoder(config: ModelConfig) -> Shapes:
    hidden, ffn = config.hidden_size, config.speech_encoder_intermediate_size
    features = config.feature_projection_input_dim
    shapes = _norm("speech_encoder.feature_projection.layer_norm", features)
    shapes |= _linear("speech_encoder.feature_projection.projection", hidden, features)
    for i in range(config.speech_encoder_layers):
        shapes |= _conformer_layer(f"speech_encoder.encoder.layers.{i}", config)
    shapes |= _norm("speech_encoder.encoder.layer_norm", hidden)
    shapes |= _speech_ffn("speech_encoder.intermediate_ffn", hidden, ffn)
    for i in range(config.num_adapter_layers):
        layer = f"speech_encoder.adapter.layers.{i}"
        for branch in ("residual", "self_attn"):
            shapes |= _norm(f"{layer}.{branch}_layer_norm", hidden)
            shapes |= _conv(f"{layer}.{branch}_conv", 2 * hidden, hidden, config.adaptor_kernel_size)
        shapes |= _attention(f"{layer}.self_attn", hidden, _SPEECH_PROJECTIONS)
        shapes |= _norm(f"{layer}.ffn_layer_norm", hidden)
        shapes |= _speech_ffn(f"{layer}.ffn", hidden, ffn)
    return shapes | _norm("speech_encoder.inner_layer_norm", hidden)


def _conformer_layer(name: str, config: ModelConfig) -> Shapes:
    hidden, ffn = config.hidden_size, config.speech_encoder_intermediate_size
    head_dim = hidden // config.speech_encoder_attention_heads
    shapes: Shapes = {}
    for half in ("ffn1", "ffn2"):
        shapes |= _norm(f"{name}.{half}_layer_norm", hidden)
        shapes |= _speech_ffn(f"{name}.{half}", hidden, ffn)
    shapes |= _norm(f"{name}.self_attn_layer_norm", hidden)
    shapes |= _attention(f"{name}.self_attn", hidden, _SPEECH_PROJECTIONS)
    shapes[f"{name}.self_attn.distance_embedding.weight"] = (config.num_relative_positions, head_dim)
    shapes |= _norm(f"{name}.conv_module.layer_norm", hidden)
    shapes[f"{name}.conv_module.pointwise_conv1.weight"] = (2 * hidden, hidden, 1)
    shapes[f"{name}.conv_module.depthwise_conv.weight"] = (hidden, 1, config.conv_depthwise_kernel_size)
    shapes |= _norm(f"{name}.conv_module.depthwise_layer_norm", hidden)
    shapes[f"{name}.conv_module.pointwise_conv2.weight"] = (hidden, hidden, 1)
    return shapes | _norm(f"{name}.final_layer_norm", hidden)


def _speech_ffn(name: str, hidden: int, ffn: int) -> Shapes:
    return _linear(f"{name}.intermediate_dense", ffn, hidden) | _linear(f"{name}.output_dense", hidden, ffn)


def _t2u(config: ModelConfig) -> Shapes:
    hidden, decoder = config.hidden_size, "t2u_model.model.decoder"
    shapes = _text_encoder("t2u_model.model.encoder", hidden, config.t2u_encoder)
    shapes[UNIT_NAMES[0]] = (config.t2u_vocab_size, hidden)
    shapes[f"{decoder}.embed_char.weight"] = (config.char_vocab_size, hidden)
    shapes[f"{decoder}.pos_emb_alpha_char"] = (1,)
    shapes[f"{decoder}.pos_emb_alpha"] = (1,)
    shapes |= _duration_predictor(
        f"{decoder}.duration_predictor",
        config.t2u_variance_predictor_embed_dim,
        config.t2u_variance_predictor_hidden_dim,
        config.t2u_variance_predictor_kernel_size,
    )
    for i in range(config.t2u_decoder_layers):
        layer = f"{decoder}.layers.{i}"
        shapes |= _attention(f"{layer}.self_attn", hidden, _TEXT_PROJECTIONS)
        shapes |= _norm(f"{layer}.self_attn_layer_norm", hidden)
        shapes |= _conv(f"{layer}.conv1", hidden, hidden, 7)
        shapes |= _conv(f"{layer}.conv2", hidden, hidden, 7)
        shapes |= _norm(f"{layer}.conv_layer_norm", hidden)
    return shapes | _norm(f"{decoder}.layer_norm", hidden)


def _duration_predictor(name: str, in_dim: int, hidden: int, kernel: int) -> Shapes:
    shapes = _conv(f"{name}.conv1", hidden, in_dim, kernel) | _conv(f"{name}.conv2", hidden, hidden, kernel)
    return shapes | _norm(f"{name}.ln1", hidden) | _norm(f"{name}.ln2", hidden) | _linear(f"{name}.proj", 1, hidden)


def _vocoder(config: ModelConfig) -> Shapes:
    unit, lang, spkr = config.unit_embed_dim, config.lang_embed_dim, config.spkr_embed_dim
    shapes = _duration_predictor("vocoder.dur_predictor", unit, unit, config.variance_predictor_kernel_size)
    shapes["vocoder.unit_embedding.weight"] = (config.unit_hifi_gan_vocab_size, unit)
    shapes["vocoder.speaker_embedding.weight"] = (config.vocoder_num_spkrs, spkr)
    shapes["vocoder.language_embedding.weight"] = (config.vocoder_num_langs, lang)
    channels = config.upsample_initial_channel
    shapes |= _conv("vocoder.hifi_gan.conv_pre", channels, lang + unit + spkr, 7)
    blocks = tuple(zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True))
    for i, kernel in enumerate(config.upsample_kernel_sizes):
        wide, channels = channels, channels // 2
        upsampler = f"vocoder.hifi_gan.upsampler.{i}"
        shapes |= {f"{upsampler}.weight": (wide, channels, kernel), f"{upsampler}.bias": (channels,)}
        for j, (block_kernel, dilations) in enumerate(blocks):
            block = f"vocoder.hifi_gan.resblocks.{i * len(blocks) + j}"
            for part in ("convs1", "convs2"):
                for k in range(len(dilations)):
                    shapes |= _conv(f"{block}.{part}.{k}", channels, channels, block_kernel)
    return shapes | _conv("vocoder.hifi_gan.conv_post", 1, channels, 7)
