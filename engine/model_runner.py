"""Owns the weights and the pools, and runs the three kinds of pass: encode, decode, speak."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from seamless_engine.characters import CharacterTable
from seamless_engine.config import EngineConfig, ModelConfig
from seamless_engine.decode.block_manager import BLOCK_SIZE, PROMPT_LENGTH, BlockManager
from seamless_engine.decode.buffers import DecodeBuffers, Layout
from seamless_engine.decode.scheduler import Job
from seamless_engine.decode.search import advance
from seamless_engine.errors import NumericalError
from seamless_engine.loader import Checkpoint, modules_for
from seamless_engine.models.layers import cumulative
from seamless_engine.models.speech_encoder import SpeechEncoder
from seamless_engine.models.t2u import TextToUnit
from seamless_engine.models.text_decoder import KVPool, TextDecoder
from seamless_engine.models.text_encoder import TextEncoder
from seamless_engine.models.vocoder import Vocoder
from seamless_engine.request import SPEECH_OUT, Task
from seamless_kernels.fbank import fbank
from seamless_kernels.top_candidates import top_candidates


@dataclass(frozen=True)
class SpeechInput:
    """What the speech pass keeps of a hypothesis: states [length, dim] of all tokens but the last, and their ids."""

    states: torch.Tensor
    tokens: torch.Tensor  # int64 [length], prompt included


class ModelRunner:
    def __init__(
        self,
        folder: Path,
        config: ModelConfig,
        options: EngineConfig,
        tasks: tuple[Task, ...],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.config = config
        modules = modules_for(tasks)
        checkpoint = Checkpoint.open(folder, config, modules)
        weights = checkpoint.weights(device, dtype)
        embedding = weights.tensor("shared.weight")
        self.decoder = TextDecoder(weights.at("text_decoder"), embedding, config)
        self.speech_encoder = (
            SpeechEncoder(weights.at("speech_encoder"), config) if "speech_encoder" in modules else None
        )
        self.text_encoder = (
            TextEncoder(weights.at("text_encoder"), embedding, config) if "text_encoder" in modules else None
        )
        self.t2u = TextToUnit(weights.at("t2u_model"), config) if "t2u_model" in modules else None
        self.vocoder = Vocoder(weights.at("vocoder"), config) if "vocoder" in modules else None
        self.characters = CharacterTable(config, device) if self.t2u else None
        self.weight_bytes = checkpoint.bytes_read

        max_length = PROMPT_LENGTH + options.max_new_tokens
        self.decoder.positions.reserve(max_length + 2)
        num_slots = options.num_slots or _default_slots(config, options, device, embedding.element_size())
        self.blocks = BlockManager(num_slots // BLOCK_SIZE, options.max_rows)
        heads = config.decoder_attention_heads
        shape = (config.decoder_layers, num_slots, heads, config.hidden_size // heads)
        # Never cleared: on a CPU, pages that no request has touched take no memory.
        self.pool = KVPool(
            torch.empty(shape, dtype=dtype, device=device), torch.empty(shape, dtype=dtype, device=device)
        )
        self.buffers = DecodeBuffers(options.max_rows, max_length, num_slots, config.hidden_size, embedding)
        self.device = device

    @torch.inference_mode()
    def encode(self, admitted: list[tuple[Job, list[int]]]) -> None:
        """Run the encoder of each request and store its cross-attention keys and values."""
        for job, blocks in admitted:
            self.buffers.admit(job, blocks)
        jobs = [job for job, _ in admitted]
        speech = [job for job in jobs if isinstance(job.source, torch.Tensor)]
        text = [job for job in jobs if not isinstance(job.source, torch.Tensor)]
        if speech:
            self._store(speech, self._encode_speech(speech))
        if text:
            self._store(text, self._encode_text(text))

    def _encode_speech(self, jobs: list[Job]) -> torch.Tensor:
        assert self.speech_encoder is not None
        lengths = [len(job.source) for job in jobs]
        waveform = torch.cat([job.source for job in jobs]).to(self.device)
        features, cu_seqlens, valid = fbank(waveform, [0, *itertools.accumulate(lengths)])
        return self.speech_encoder(features, cu_seqlens, valid)[0]

    def _encode_text(self, jobs: list[Job]) -> torch.Tensor:
        assert self.text_encoder is not None
        tokens = torch.tensor([token for job in jobs for token in job.source], device=self.device)
        cu_seqlens = cumulative(torch.tensor([len(job.source) for job in jobs], device=self.device))
        return self.text_encoder(tokens, cu_seqlens)

    def _store(self, jobs: list[Job], encodings: torch.Tensor) -> None:
        slots = torch.cat([job.cross_slots for job in jobs]).long()
        self.decoder.store_encodings(encodings, slots, self.pool)
        for job in jobs:
            job.source = None

    @torch.inference_mode()
    def decode(self, jobs: list[Job]) -> tuple[list[bool], list[bool]]:
        """One step of every request. Returns, for each, whether its search is over and whether it met a NaN."""
        buffers = self.buffers
        layout = buffers.layout(jobs)
        inputs = buffers.inputs(layout, jobs, self.config.decoder_start_token_id)
        hidden = self.decoder.step(inputs, self.pool)
        buffers.state_pool.index_copy_(0, inputs.slots, hidden)
        for job in jobs:
            job.position += PROMPT_LENGTH if job.position == 0 else 1

        logits = self.decoder.logits(hidden[layout.choosing])
        beams = layout.rows.shape[1]
        log_probs, tokens = top_candidates(logits, min(2 * beams, logits.shape[1]), self._banned(layout, jobs))
        short = 2 * beams - log_probs.shape[1]
        inert = torch.nn.functional.pad(log_probs, (0, short, 0, 1), value=-torch.inf)  # one more line, for inert beams
        tokens = torch.nn.functional.pad(tokens, (0, short, 0, 1))
        outcome = advance(
            buffers.score[layout.rows],
            inert[layout.candidates],
            tokens[layout.candidates],
            buffers.finished(layout),
            buffers.rules(layout, jobs, self.config.eos_token_id),
        )
        buffers.commit(layout, outcome, jobs)
        return outcome.over.tolist(), outcome.broken.tolist()

    def _banned(self, layout: Layout, jobs: list[Job]) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Lines of the logits that may not choose eos yet."""
        early = [job.position - PROMPT_LENGTH < job.params.min_new_tokens for job in jobs]
        if not any(early):
            return None
        lines = layout.candidates[torch.tensor(early, device=self.device)].flatten()
        lines = lines[lines < len(layout.choosing)]
        return lines, torch.full_like(lines, self.config.eos_token_id)

    def finish(self, job: Job) -> None:
        """Take the best hypothesis of a finished search out of the pools."""
        hypothesis = self.buffers.best(job)
        job.result.tokens = hypothesis.tokens
        job.result.score = hypothesis.score
        job.result.finish_reason = "eos" if hypothesis.tokens[-1] == self.config.eos_token_id else "length"
        if job.request.task in SPEECH_OUT:
            slots = hypothesis.slots
            job.speech = SpeechInput(self.buffers.state_pool[slots], self.buffers.token_pool[slots])

    @torch.inference_mode()
    def speak(self, jobs: list[Job]) -> None:
        """Units and waveform of each request, into its result. A sentence without characters gives no samples."""
        assert self.t2u is not None and self.vocoder is not None
        tokens = torch.cat([job.speech.tokens for job in jobs])
        lengths = torch.tensor([len(job.speech.tokens) for job in jobs], device=self.device)
        cu_seqlens = cumulative(lengths)
        char_ids, counts = self._characters(tokens, lengths)
        chars = [int(part.sum()) for part in counts.split(lengths.tolist())]
        if 0 in chars:
            for job in jobs:
                self._deliver(job, np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))
            spoken = [job for job, count in zip(jobs, chars, strict=True) if count]
            return self.speak(spoken) if spoken else None

        padding = (tokens == self.config.pad_token_id).long()
        valid = lengths - torch.stack([part.sum() for part in padding.split(lengths.tolist())])
        units = self.t2u(torch.cat([job.speech.states for job in jobs]), cu_seqlens, valid.int(), char_ids, counts)
        ids, unknown = self._vocoder_ids(units.ids)
        languages = torch.tensor([job.voice_id for job in jobs], device=self.device)
        speakers = torch.tensor([job.request.speaker_id or 0 for job in jobs], device=self.device)
        waveforms = self.vocoder(ids, units.cu_seqlens, languages, speakers)
        sizes = units.cu_seqlens.diff().tolist()
        for job, unit, bad, wave in zip(jobs, ids.split(sizes), unknown.split(sizes), waveforms, strict=True):
            self._deliver(job, unit.cpu().numpy(), wave.float().cpu().numpy())
            if bad.any():
                job.result.warnings.append(f"{int(bad.sum())} units that the vocoder does not have were left silent")

    def _characters(self, tokens: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Character ids, and their count at each decoder position: that of the state which predicts the token.

        Position 0 reads eos and predicts the language; the last one predicts the token that is not spoken.
        """
        assert self.characters is not None
        position = torch.cat([torch.arange(n, device=self.device) for n in lengths.tolist()])
        body = position >= PROMPT_LENGTH
        char_ids, counts = self.characters.expand(tokens[body], cumulative(lengths - PROMPT_LENGTH))
        shifted = torch.zeros_like(tokens)
        shifted[body.nonzero()[:, 0] - 1] = counts
        return char_ids, shifted

    def _vocoder_ids(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """T2U ids → rows of the unit table. eos, and ids that the table does not have, count as padding."""
        pad = self.config.t2u_pad_token_id
        shifted = ids - self.config.vocoder_offset
        special = (ids == pad) | (ids == self.config.t2u_eos_token_id)
        unknown = ((shifted < 0) | (shifted >= self.config.unit_hifi_gan_vocab_size)) & ~special
        return torch.where(special | unknown, pad, shifted), unknown

    def _deliver(self, job: Job, units: np.ndarray, audio: np.ndarray) -> None:
        if not np.isfinite(audio).all():
            raise NumericalError("the speech of this request is not finite; its audio was dropped")
        job.result.units, job.result.audio = units, audio
        job.result.sampling_rate = self.config.sampling_rate


def _default_slots(config: ModelConfig, options: EngineConfig, device: torch.device, element_size: int) -> int:
    """As many slots as the rows can use with default lengths, within the fraction of memory that is ours."""
    hidden = config.hidden_size
    slot_bytes = (2 * config.decoder_layers + 1) * hidden * element_size + 8
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    useful = options.max_rows * (PROMPT_LENGTH + config.max_new_tokens + 2 * BLOCK_SIZE) + options.max_source_tokens * 4
    slots = min(int(free * options.memory_fraction) // slot_bytes, useful)
    return max(slots, 2 * BLOCK_SIZE) // BLOCK_SIZE * BLOCK_SIZE
