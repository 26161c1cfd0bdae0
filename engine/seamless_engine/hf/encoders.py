"""The two encoders of a drop-in model: calling one gives its hidden states."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from seamless_engine.errors import UsageError
from seamless_engine.hf import inputs
from seamless_engine.hf.module import ReadOnlyModule, check_neutral
from seamless_engine.hf.outputs import EncoderOutput
from seamless_engine.hf.stored_weight import StoredWeight, tied_names
from seamless_engine.models.lengths import encoder_length

_REASON = "it gives the last hidden state, nothing in between"


class _Encoder(ReadOnlyModule):
    name: ClassVar[str]
    main_input_name: ClassVar[str]

    def _move(self, device: torch.device | None, dtype: torch.dtype | None) -> None:
        if (device or self.device).type != self.device.type or (dtype or self.dtype) != self.dtype:
            raise UsageError("an encoder goes where its model goes: call .to(...) of the model")

    def _weights(self) -> dict[str, StoredWeight]:
        own, ties = self._loaded.weights(), self._ties()
        found = {name.removeprefix(f"{self.name}."): own[name] for name in own if name.startswith(f"{self.name}.")}
        return {short: own[name] for short, name in ties.items()} | found

    def _ties(self) -> dict[str, str]:
        tied = tied_names([self.name])
        return {name.removeprefix(f"{self.name}."): of for name, of in tied.items() if name.startswith(f"{self.name}.")}

    def state_dict(self, *, prefix: str = "", **_: Any) -> dict[str, Any]:  # pyright: ignore
        return {prefix + name: weight for name, weight in self._weights().items()}


class TextEncoder(_Encoder):
    name = "text_encoder"
    main_input_name = "input_ids"

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **kwargs: Any) -> EncoderOutput:
        """Hidden states [batch, length, hidden] of input_ids [batch, length]; zeros at padding.

        Raises UsageError for an argument that asks for other outputs.
        """
        check_neutral("the text encoder", kwargs, _REASON)
        engine = self._loaded.get()
        pad = engine.config.pad_token_id
        sentences = inputs.sentences(input_ids, attention_mask, pad, engine.config.vocab_size)
        kept = (
            torch.as_tensor(input_ids).cpu() != pad if attention_mask is None else torch.as_tensor(attention_mask) != 0
        )
        hidden = torch.zeros(*kept.shape, engine.config.hidden_size, dtype=engine.dtype, device=engine.device)
        for states, mask, sentence in zip(hidden, kept.to(engine.device), sentences, strict=True):
            states[mask] = engine.encode(sentence)
        return EncoderOutput(hidden)


class SpeechEncoder(_Encoder):
    name = "speech_encoder"
    main_input_name = "input_features"

    def forward(self, input_features: Any = None, attention_mask: Any = None, **kwargs: Any) -> EncoderOutput:
        """Hidden states [batch, frames // 8 + 1, hidden] of input_features [batch, frames, 160]; zeros after the end of
        a clip.

        Raises UsageError for an argument that asks for other outputs.
        """
        check_neutral("the speech encoder", kwargs, _REASON)
        engine = self._loaded.get()
        clips = inputs.clips(input_features, attention_mask, engine.config.feature_projection_input_dim)
        length = encoder_length(torch.as_tensor(input_features).shape[1], engine.config.adaptor_stride)
        hidden = torch.zeros(len(clips), length, engine.config.hidden_size, dtype=engine.dtype, device=engine.device)
        for padded, clip in zip(hidden, clips, strict=True):
            states = engine.encode(clip)
            padded[: len(states)] = states
        return EncoderOutput(hidden)
