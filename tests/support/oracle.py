"""transformers at batch size 1 with scaled-dot-product attention: the reference for every result of the engine."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
import transformers
from transformers import SeamlessM4TFeatureExtractor, SeamlessM4Tv2Model

from seamless_engine.config import Reference
from seamless_engine.request import SPEECH_IN, DecodingParams, Request

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

GREEDY = DecodingParams()


@dataclass(frozen=True)
class Text:
    """tokens: ids after the two prompt ids, eos included. score: None when greedy. margin: closest call on the way."""

    tokens: list[int]
    score: float | None
    margin: float


@dataclass(frozen=True)
class Speech:
    """units: raw T2U ids, offset not removed. waveform: float32 [samples]. reported_samples: the stated length.

    unit_margin: closest call among T2U durations (in frames) and unit choices; duration_margin: among the vocoder's.
    A text without characters has no units and no samples here; transformers raises an error for it.
    """

    text: Text
    units: list[int]
    waveform: np.ndarray
    reported_samples: int
    unit_margin: float
    duration_margin: float


@functools.cache
def load(
    folder: str | os.PathLike[str], dtype: torch.dtype = torch.float32, *, reference: Reference = "transformers"
) -> Oracle:
    """The checkpoint in transformers, once per process; for "meta" changed to the networks as they were trained."""
    oracle = Oracle(Path(folder), dtype)
    if reference == "meta":
        _begin_texts_at_two(oracle.model)
        _keep_half_pairs(oracle.model.speech_encoder)
    return oracle


class Oracle:
    """References for one checkpoint. Results are cached, so tests that share a request compute it once."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        model, info = _RecordingModel.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            folder, attn_implementation="sdpa", dtype=dtype, output_loading_info=True
        )
        problems = {kind: found for kind, found in info.items() if found}
        assert not problems, f"transformers does not load {folder} cleanly: {problems}"
        self.model: Any = model.eval()
        self.extractor = SeamlessM4TFeatureExtractor.from_pretrained(folder)
        self.tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.bpe.model"))
        self.languages: dict[str, int] = self.model.generation_config.text_decoder_lang_to_code_id
        self._results: dict[Any, Any] = {}

    def features(self, audio: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 [1, tokens, 160] and mask [1, tokens] of a clip at 16 kHz; the last is masked if frames are odd."""
        features = self.extractor(audio, sampling_rate=16_000, return_tensors="pt")
        return features["input_features"], features["attention_mask"]

    def source_ids(self, text: str, src_lang: str) -> list[int]:
        """`[language] pieces [eos]`: sentencepiece and an offset of 1, unlike the tokenizer of transformers 5."""
        return [self.languages[src_lang], *(piece + 1 for piece in self.tokenizer.encode(text)), 3]

    @torch.no_grad()
    def speech_encoder(self, audio: np.ndarray) -> torch.Tensor:
        """[tokens // 8 + 1, hidden]."""
        features, mask = self.features(audio)
        return self.model.speech_encoder(features, attention_mask=mask).last_hidden_state[0]

    @torch.no_grad()
    def text_encoder(self, ids: list[int]) -> torch.Tensor:
        """[len(ids), hidden]."""
        batch = torch.tensor([ids])
        return self.model.text_encoder(batch, attention_mask=torch.ones_like(batch)).last_hidden_state[0]

    def text(self, request: Request, params: DecodingParams = GREEDY) -> Text:
        """The text part of any task. `request.audio` is an array at 16 kHz."""
        return self._cached("text", request, params, self._text)

    def speech(self, request: Request, params: DecodingParams = GREEDY) -> Speech:
        """Text, units and waveform of a task with speech output."""
        return self._cached("speech", request, params, self._speech)

    def _cached(self, kind: str, request: Request, params: DecodingParams, compute: Any) -> Any:
        source = request.text if request.audio is None else request.audio.tobytes()
        key = (kind, request.tgt_lang, request.src_lang, request.speaker_id, source, params)
        if key not in self._results:
            with torch.no_grad():
                self._results[key] = compute(request, params)
        return self._results[key]

    def _inputs(self, request: Request) -> dict[str, torch.Tensor]:
        if request.task in SPEECH_IN:
            features, mask = self.features(request.audio)
            return {"input_features": features, "attention_mask": mask}
        assert isinstance(request.text, str) and request.src_lang is not None
        ids = torch.tensor([self.source_ids(request.text, request.src_lang)])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def _text(self, request: Request, params: DecodingParams) -> Text:
        self.model.search_gap = self.model.best_gap = math.inf
        output = self.model.generate(
            **self._inputs(request), tgt_lang=request.tgt_lang, generate_speech=False, **_text_arguments(params)
        )
        tokens = output.sequences[0, 2:].tolist()
        if params.num_beams == 1:
            return Text(tokens, None, min(_smallest_gap(scores[0]) for scores in output.scores))
        return Text(tokens, output.sequences_scores[0].item(), min(self.model.search_gap, self.model.best_gap))

    def _speech(self, request: Request, params: DecodingParams) -> Speech:
        text = self.text(request, params)
        if len(text.tokens) < 2:
            return Speech(text, [], np.zeros(0, np.float32), 0, math.inf, math.inf)
        t2u, vocoder = self.model.t2u_model, self.model.vocoder
        seen: dict[str, torch.Tensor] = {}
        hooks = [
            t2u.model.decoder.duration_predictor.register_forward_hook(lambda *a: seen.update(characters=a[-1])),
            t2u.lm_head.register_forward_hook(lambda *a: seen.update(units=a[-1])),
            vocoder.dur_predictor.register_forward_hook(lambda *a: seen.update(frames=a[-1])),
        ]
        try:
            output = self.model.generate(
                **self._inputs(request),
                tgt_lang=request.tgt_lang,
                speaker_id=request.speaker_id or 0,
                return_intermediate_token_ids=True,
                **_text_arguments(params),
            )
        finally:
            for hook in hooks:
                hook.remove()
        assert output.sequences[0, 2:].tolist() == text.tokens
        return Speech(
            text,
            output.unit_sequences[0].tolist(),
            output.waveform[0].float().numpy(),
            int(output.waveform_lengths),
            min(_smallest_gap(seen["units"]), _rounding_margin(seen["characters"])),
            _rounding_margin(seen["frames"]),
        )


def _begin_texts_at_two(model: Any) -> None:
    """Positions stay those of transformers, from 1 on; each takes the entry of the next one in the table."""
    for stack in (model.text_encoder, model.text_decoder):
        positions = stack.embed_positions
        assert positions.padding_idx == 0
        positions.weights = torch.cat([positions.weights[:1], positions.weights[2:]])
        positions.make_weights = None  # a table that grows would have the old entries


def _keep_half_pairs(encoder: Any) -> None:
    """The first layer reads the output of the projection, not the zeros of transformers, at a half pair of frames."""
    projected: list[torch.Tensor] = []
    encoder.feature_projection.register_forward_hook(lambda module, inputs, output: projected.append(output))
    encoder.encoder.layers[0].register_forward_pre_hook(lambda module, inputs: (_unmasked(projected.pop(), *inputs),))


def _unmasked(projected: torch.Tensor, cleared: torch.Tensor) -> torch.Tensor:
    assert torch.equal(projected[:, :-1], cleared[:, :-1])
    return projected


class _RecordingModel(SeamlessM4Tv2Model):
    """Notes how close the beam search came to keeping other beams or to returning another hypothesis."""

    search_gap = math.inf  # between what a step kept and what it dropped
    best_gap = math.inf  # between the two best finished hypotheses, so far

    def _get_top_k_continuations(self, accumulated_log_probs: torch.Tensor, **kwargs: Any) -> Any:
        beams = kwargs["num_beams"]
        scores, indices = accumulated_log_probs[0].topk(2 * beams + 1)
        ends = indices % (accumulated_log_probs.shape[1] // beams) == self.generation_config.eos_token_id
        going_on = scores[~ends]
        gaps = [going_on[beams - 1] - going_on[beams]]
        if ends[beams - 1] or ends[beams]:  # an eos below rank `beams` does not finish
            gaps.append(scores[beams - 1] - scores[beams])
        self.search_gap = min(self.search_gap, *map(float, gaps))
        return super()._get_top_k_continuations(accumulated_log_probs=accumulated_log_probs, **kwargs)

    def _update_finished_beams(self, *args: Any, **kwargs: Any) -> Any:
        result = super()._update_finished_beams(*args, **kwargs)
        self.best_gap = _smallest_gap(result[1][0])
        return result


# Parameters that transformers does not have, or has on the speech side; references are for their defaults.
_NOT_TEXT = (
    "block_unk",
    "seed",
    "return_token_logprobs",
    "soft_max_length",
    "vocoder_durations",
    "speaker_per_language",
    "speech_do_sample",
    "speech_temperature",
)


def _text_arguments(params: DecodingParams) -> dict[str, Any]:
    for name in _NOT_TEXT:
        assert getattr(params, name) == getattr(GREEDY, name), f"transformers has no {name}"
    arguments = {
        f"text_{name}": [list(inner) if isinstance(inner, tuple) else inner for inner in value]
        if isinstance(value, tuple)
        else value
        for name, value in dataclasses.asdict(params).items()
        if value is not None and name not in _NOT_TEXT
    }
    if not params.do_sample:
        for name in ("temperature", "top_k", "top_p"):
            del arguments[f"text_{name}"]
    return arguments


def _smallest_gap(scores: torch.Tensor) -> float:
    """Smallest difference between the two best of the last dimension."""
    best = scores.float().topk(2).values
    return (best[..., 0] - best[..., 1]).min().item()


def _rounding_margin(log_durations: torch.Tensor) -> float:
    """Distance of `expm1(x)` to the nearest of 1.5, 2.5, ...: where the number of frames changes."""
    frames = log_durations.double().expm1().clamp(min=1.0)
    return (frames - frames.floor() - 0.5).abs().min().item()
