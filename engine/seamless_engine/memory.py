"""The largest passes that the settings allow, run once before the pools are made.

On a GPU the pools take a share of what is free, and what a pass needs in between must not be part of it. A speech pass
is bounded by its vocoder: the unit model works on fewer rows than an encoder, and on narrower ones.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import accumulate

import torch

from seamless_engine.config import EngineConfig
from seamless_engine.models.layers import cumulative
from seamless_engine.models.speech_encoder import SpeechEncoder
from seamless_engine.models.text_encoder import TextEncoder
from seamless_engine.models.vocoder import Clips, Vocoder
from seamless_engine.recovery import is_out_of_memory
from seamless_kernels.fbank import SAMPLING_RATE, fbank, frame_count, sample_count

_log = logging.getLogger(__name__)


def profile_run(
    speech_encoder: SpeechEncoder | None,
    text_encoder: TextEncoder | None,
    vocoder: Vocoder | None,
    options: EngineConfig,
    device: torch.device,
) -> int:
    """Returns the most bytes that a pass needed beside the weights; 0 on a CPU, where torch does not count them.

    A pass that does not fit is named in a warning: inputs of that size will be refused, smaller ones will not.
    """
    needed = 0
    for name, run in _passes(speech_encoder, text_encoder, vocoder, options, device):
        try:
            needed = max(needed, _peak(run, device))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            _log.warning(
                "%s is more than the free memory of %s takes at once: free some, or lower the setting", name, device
            )
    return needed


def _passes(
    speech_encoder: SpeechEncoder | None,
    text_encoder: TextEncoder | None,
    vocoder: Vocoder | None,
    options: EngineConfig,
    device: torch.device,
) -> Iterator[tuple[str, Callable[[], object]]]:
    names = "an encoder pass of EngineConfig.max_encoder_tokens={}, or of one input of EngineConfig.{}={}"
    if speech_encoder:
        longest = max(frame_count(int(options.max_audio_seconds * SAMPLING_RATE)), 2)
        clips = [sample_count(2 * rows) for rows in _fill(options.max_encoder_tokens, -(-longest // 2))]
        name = names.format(options.max_encoder_tokens, "max_audio_seconds", options.max_audio_seconds)
        yield name, lambda: _encode_speech(speech_encoder, clips, device)
    if text_encoder:
        sentences = _fill(options.max_encoder_tokens, options.max_source_tokens)
        name = names.format(options.max_encoder_tokens, "max_source_tokens", options.max_source_tokens)
        yield name, lambda: _encode_text(text_encoder, sentences, device)
    if vocoder:
        yield "a pass of the vocoder", lambda: _speak(vocoder, device)


def _fill(rows: int, longest: int) -> list[int]:
    """The rows of a pass that has no room left: inputs of the longest kind, and what remains."""
    whole, rest = max(rows // longest, 1), rows % longest if rows > longest else 0
    return [longest] * whole + [rest] * (rest > 0)


def _encode_speech(encoder: SpeechEncoder, lengths: list[int], device: torch.device) -> None:
    bounds = [0, *accumulate(lengths)]
    encoder(*fbank(torch.zeros(bounds[-1], dtype=torch.float32, device=device), bounds))


def _encode_text(encoder: TextEncoder, lengths: list[int], device: torch.device) -> None:
    cu_seqlens = cumulative(torch.tensor(lengths, device=device))
    encoder(torch.zeros(sum(lengths), dtype=torch.int64, device=device), cu_seqlens)


def _speak(vocoder: Vocoder, device: torch.device) -> None:
    frames = max(vocoder.pass_frames, vocoder.window)
    voice = torch.zeros(1, dtype=torch.int64, device=device)
    clips = Clips(torch.zeros(frames, dtype=torch.int64, device=device), [0, frames], voice, voice)
    vocoder(clips, next(vocoder.passes(clips)))


def _peak(run: Callable[[], object], device: torch.device) -> int:
    """Bytes that `run` needs while it runs."""
    if device.type != "cuda":
        run()
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    try:
        run()
        return torch.cuda.max_memory_allocated(device) - before
    finally:
        torch.cuda.empty_cache()
