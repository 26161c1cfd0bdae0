"""The model of the recipe: transformers' SeamlessM4T-v2 in small, with weights that train from nothing.

speech  log-mel [B, T, 160] ─ conformer ─ CTC head: characters, 50 frames a second (training only)
                                  └─ adapter ─ CTC head: pieces, 6 states a second (training only)
                                        └─────┐
text    ids [B, S] ─ text encoder ────────────┴─ text decoder ─ logits [B, L, vocabulary]
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from torch import nn
from transformers import SeamlessM4Tv2Config, SeamlessM4Tv2Model

from demo.train.tokens import EOS, Tokens
from demo.train.words import LANGUAGES

UNITS = 200
FIRST_UNIT = 2  # units 0 and 1 stay unused: 1 means padding where the vocoder counts lengths
VOCODER_OFFSET = 4  # the unit model's ids are the vocoder's plus this
_HEAD = 64
_OFF = ("dropout", "attention_dropout", "activation_dropout", "speech_encoder_dropout", "adaptor_dropout",
        "encoder_layerdrop", "decoder_layerdrop", "speech_encoder_layerdrop", "t2u_encoder_layerdrop",
        "t2u_decoder_layerdrop", "t2u_variance_pred_dropout", "var_pred_dropout")  # fmt: skip


def config(tokens: Tokens, hidden: int) -> SeamlessM4Tv2Config:
    heads, ffn = hidden // _HEAD, 4 * hidden
    return SeamlessM4Tv2Config(
        **dict.fromkeys(_OFF, 0.0),
        vocab_size=tokens.vocab_size,
        hidden_size=hidden,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=ffn,
        decoder_ffn_dim=ffn,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        max_position_embeddings=256,
        max_new_tokens=64,
        speech_encoder_layers=4,
        speech_encoder_attention_heads=heads,
        speech_encoder_intermediate_size=ffn,
        t2u_vocab_size=VOCODER_OFFSET + FIRST_UNIT + UNITS,
        char_vocab_size=len(tokens.characters),
        t2u_encoder_layers=2,
        t2u_decoder_layers=2,
        t2u_encoder_ffn_dim=ffn,
        t2u_decoder_ffn_dim=ffn,
        t2u_encoder_attention_heads=heads,
        t2u_decoder_attention_heads=heads,
        t2u_max_position_embeddings=1024,
        t2u_variance_predictor_embed_dim=hidden,
        t2u_variance_predictor_hidden_dim=128,
        unit_hifi_gan_vocab_size=FIRST_UNIT + UNITS,
        unit_embed_dim=128,
        lang_embed_dim=16,
        spkr_embed_dim=16,
        vocoder_num_langs=len(LANGUAGES),
        vocoder_num_spkrs=2,
        upsample_initial_channel=hidden // 2,
        use_cache=False,
        attn_implementation="sdpa",  # pyright: ignore[reportCallIssue]  # eager does not mask the conformer
    )


def build(tokens: Tokens, hidden: int, seed: int = 0, start: Path | None = None) -> SeamlessM4Tv2Model:
    """The weights of the checkpoint `start`, or fresh ones. transformers' N(0, 0.02) is for large models: matrices are
    Xavier's, embeddings N(0, 1/√hidden), and the vocoder's convolutions keep the variance."""
    transformers.logging.set_verbosity_error()
    torch.manual_seed(seed)
    if start is not None:
        return SeamlessM4Tv2Model.from_pretrained(start, dtype=torch.float32, attn_implementation="sdpa")
    model = SeamlessM4Tv2Model(config(tokens, hidden))
    for name, weight in model.named_parameters():
        if name.startswith("vocoder.hifi_gan") or weight.ndim < 2:
            continue
        if "embed" in name or name.startswith("shared"):
            nn.init.normal_(weight, 0, hidden**-0.5)
        else:
            nn.init.xavier_uniform_(weight)
    for module in model.vocoder.hifi_gan.modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            stride = module.stride[0] if isinstance(module, nn.ConvTranspose1d) else 1
            nn.init.normal_(module.weight, 0, 0.7 * (module.in_channels * module.kernel_size[0] / stride) ** -0.5)
            module.bias.data.zero_()  # pyright: ignore[reportOptionalMemberAccess]
    # Every unit lasts one frame: the unit model already says how often each is repeated.
    nn.init.zeros_(model.vocoder.dur_predictor.proj.weight)
    nn.init.constant_(model.vocoder.dur_predictor.proj.bias, math.log(2))
    return model


def pad(rows: list[list[int]], value: int, device: torch.device | str) -> torch.Tensor:
    """int64 [rows, longest]"""
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows], device=device)


class Translator(nn.Module):
    """The parts of the model that end in text, and two CTC heads that are thrown away at export: characters in front of
    the adapter, pieces behind it."""

    def __init__(self, model: SeamlessM4Tv2Model, tokens: Tokens) -> None:
        super().__init__()
        self.speech_encoder, self.text_encoder = model.speech_encoder, model.text_encoder
        self.text_decoder, self.lm_head = model.text_decoder, model.lm_head
        self.lengths = model._compute_sub_sample_lengths_from_attention_mask
        self.ctc = nn.Linear(model.config.hidden_size, 1 + len(tokens.sounds))
        self.pieces = nn.Linear(model.config.hidden_size, tokens.vocab_size)
        self.tokens = tokens
        self.frames, self._unpadded = torch.empty(0), torch.empty(0)
        self.speech_encoder.encoder.register_forward_hook(self._keep)
        for norm in ("residual_layer_norm", "self_attn_layer_norm"):
            module = self.speech_encoder.get_submodule(f"adapter.layers.0.{norm}")
            module.register_forward_hook(self._without_padding)

    def _keep(self, module: nn.Module, inputs: object, output: object) -> None:
        self.frames = output if isinstance(output, torch.Tensor) else output[0]  # type: ignore[index]

    def _without_padding(self, module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        """transformers lets the adapter's convolutions read the padding of a batch; a clip alone has none."""
        return output * self._unpadded

    @property
    def device(self) -> torch.device:
        return self.ctc.weight.device

    def hear(self, features: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """features [B, T, 160], mask int64 [B, T] → states [B, ⌊T/8⌋ + 1, hidden] and their mask.

        A clip with an odd number of frames ends in one padded frame pair even when it is alone: training has that too.
        """
        extra = torch.randint(2, (len(mask), 1), device=mask.device) if self.training else 0
        frames = torch.arange(mask.shape[1], device=mask.device)
        self._unpadded = (frames < mask.sum(1, keepdim=True) + extra)[..., None].to(features.dtype)
        states = self.speech_encoder(input_features=features, attention_mask=mask).last_hidden_state
        positions = torch.arange(states.shape[1], device=mask.device)
        return states, (positions < self.lengths(mask).to(mask.device)[:, None]).long()

    def read(self, texts: list[str], langs: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        rows = [self.tokens.source(t, lang) for t, lang in zip(texts, langs, strict=True)]
        ids = pad(rows, 0, self.device)
        mask = (ids != 0).long()
        return self.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state, mask

    def states(self, ids: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Decoder states [B, L, hidden]; the encoder's dtype and mask as `hear` and `read` return them."""
        decoder = self.text_decoder
        return decoder(
            input_ids=ids, encoder_hidden_states=memory, encoder_attention_mask=mask, use_cache=False
        ).last_hidden_state

    def loss(
        self, texts: list[str], langs: list[str], memory: torch.Tensor, mask: torch.Tensor, smoothing: float = 0.05
    ) -> torch.Tensor:
        """Cross-entropy of the pieces and the end; the language token is given, so it is not trained."""
        rows = [self.tokens.target(t, lang) for t, lang in zip(texts, langs, strict=True)]
        ids = pad([row[:-1] for row in rows], 0, self.device)
        labels = pad([[-100, *row[2:]] for row in rows], -100, self.device)
        logits = self.lm_head(self.states(ids, memory, mask))
        return F.cross_entropy(
            logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100, label_smoothing=smoothing
        )

    def ctc_losses(
        self, texts: list[str], mask: torch.Tensor, memory: torch.Tensor, memory_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the characters and of the pieces of the clips that `hear` heard last. A text that is too long
        for the 6 states a second behind the adapter counts nothing."""
        characters = self._ctc(self.ctc(self.frames), mask, [self.tokens.heard(t) for t in texts])
        return characters, self._ctc(self.pieces(memory), memory_mask, [self.tokens.encode(t) for t in texts])

    def _ctc(self, logits: torch.Tensor, mask: torch.Tensor, rows: list[list[int]]) -> torch.Tensor:
        scores = logits.float().log_softmax(-1).transpose(0, 1)
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        return F.ctc_loss(scores, pad(rows, 0, self.device), mask.sum(1), lengths, zero_infinity=True)

    @torch.no_grad()
    def greedy(self, langs: list[str], memory: torch.Tensor, mask: torch.Tensor, longest: int = 48) -> list[str]:
        """Texts, for the curve of the training: the engine's search is for the figures."""
        ids = torch.tensor([[EOS, self.tokens.lang[lang]] for lang in langs], device=self.device)
        ended = torch.zeros(len(langs), dtype=torch.bool, device=self.device)
        for _ in range(longest):
            best = self.lm_head(self.states(ids, memory, mask)[:, -1]).argmax(-1)
            ids = torch.cat((ids, best.masked_fill(ended, EOS)[:, None]), 1)
            ended |= best == EOS
            if ended.all():
                break
        return [self.tokens.decode(row) for row in ids[:, 2:].tolist()]
