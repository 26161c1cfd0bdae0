"""How large the key/value pool is, and the profile run that it depends on.

The pool has a share of the memory that is free at start. On a GPU, that is less the memory that the largest passes need
while they run, which the profile run measures. A synthesis pass needs the most in the vocoder: T2U works on fewer
tokens than an encoder, and on narrower ones.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from itertools import accumulate

import torch

from seamless_engine.block_manager import BLOCK_SIZE, PROMPT_LENGTH
from seamless_engine.config import EngineConfig, ModelConfig
from seamless_engine.models.layers import cumulative
from seamless_engine.models.lengths import encoder_length, packed_frames
from seamless_engine.models.speech_encoder import SpeechEncoder
from seamless_engine.models.text_encoder import TextEncoder
from seamless_engine.models.vocoder import Clips, Vocoder
from seamless_engine.recovery import is_out_of_memory
from seamless_kernels.fbank import fbank
from seamless_kernels.framing import SAMPLING_RATE, sample_count

_log = logging.getLogger(__name__)


def pool_slots(
    config: ModelConfig, options: EngineConfig, device: torch.device, element_size: int, pass_bytes: int
) -> int:
    """The slots of the key/value pool: as many as `max_num_seqs` beams of default length use, if the memory allows.

    pass_bytes: bytes that stay free for the largest pass.
    """
    if options.num_slots is not None:
        return options.num_slots
    slot_bytes = (2 * config.decoder_layers + 1) * config.hidden_size * element_size + 8
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    affordable = int(max(free - pass_bytes, 0) * options.memory_fraction) // slot_bytes
    beam_slots = PROMPT_LENGTH + config.max_new_tokens + 2 * BLOCK_SIZE
    useful = options.max_num_seqs * beam_slots + options.max_source_tokens * 4
    return max(min(affordable, useful), 2 * BLOCK_SIZE) // BLOCK_SIZE * BLOCK_SIZE


def profile_run(
    speech_encoder: SpeechEncoder | None,
    text_encoder: TextEncoder | None,
    vocoder: Vocoder | None,
    options: EngineConfig,
    device: torch.device,
) -> int:
    """Run the largest passes that the options allow. Returns the bytes that the largest of them needs beside the
    weights; 0 on a CPU, where torch does not count them.

    A pass that does not fit is named in a warning: inputs of that size will fail, smaller ones will not.
    """
    needed = 0
    for name, run in _largest_passes(speech_encoder, text_encoder, vocoder, options, device):
        try:
            needed = max(needed, _peak_bytes(run, device))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            _log.warning(
                "%s is more than the free memory of %s takes at once: free some, or lower the setting", name, device
            )
    return needed


def _largest_passes(
    speech_encoder: SpeechEncoder | None,
    text_encoder: TextEncoder | None,
    vocoder: Vocoder | None,
    options: EngineConfig,
    device: torch.device,
) -> Iterator[tuple[str, Callable[[], object]]]:
    names = "an encoder pass of EngineConfig.max_encoder_tokens={}, or of one input of EngineConfig.{}={}"
    if speech_encoder:
        longest, _ = packed_frames(int(options.max_audio_seconds * SAMPLING_RATE))
        clips = _split(options.max_encoder_tokens, max(longest, 1))
        name = names.format(options.max_encoder_tokens, "max_audio_seconds", options.max_audio_seconds)
        yield name, lambda: _encode_speech(speech_encoder, clips, device)
    if text_encoder:
        sentences = _split(options.max_encoder_tokens, options.max_source_tokens)
        name = names.format(options.max_encoder_tokens, "max_source_tokens", options.max_source_tokens)
        yield name, lambda: _encode_text(text_encoder, sentences, device)
    if vocoder:
        yield "a pass of the vocoder", lambda: _synthesize(vocoder, device)


def _split(num_tokens: int, longest: int) -> list[int]:
    """The lengths of the inputs of a full pass: as many of the longest as it takes, and one of the remaining tokens."""
    count, rest = max(num_tokens // longest, 1), num_tokens % longest if num_tokens > longest else 0
    return [longest] * count + [rest] * (rest > 0)


def _encode_speech(encoder: SpeechEncoder, lengths: list[int], device: torch.device) -> None:
    bounds = [0, *accumulate(sample_count(2 * frames) for frames in lengths)]
    num_states = sum(encoder_length(frames, encoder.adapter.stride) for frames in lengths)
    encoder(*fbank(torch.zeros(bounds[-1], dtype=torch.float32, device=device), bounds), num_states)


def _encode_text(encoder: TextEncoder, lengths: list[int], device: torch.device) -> None:
    cu_seqlens = cumulative(torch.tensor(lengths, device=device))
    encoder(torch.zeros(sum(lengths), dtype=torch.int64, device=device), cu_seqlens)


def _synthesize(vocoder: Vocoder, device: torch.device) -> None:
    frames = max(vocoder.pass_frames, vocoder.window)
    index = torch.zeros(1, dtype=torch.int64, device=device)
    clips = Clips(torch.zeros(frames, dtype=torch.int64, device=device), [0, frames], index, index)
    vocoder(clips, next(vocoder.passes(clips)))


def _peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """The bytes that `run` needs while it runs."""
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
