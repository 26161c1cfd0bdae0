"""Owns the weights and the pools, and runs the three kinds of pass: encode, decode, speak."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import torch

from seamless_engine.block_manager import BLOCK_SIZE, PROMPT_LENGTH, BlockManager
from seamless_engine.config import EngineConfig, ModelConfig
from seamless_engine.cuda_graphs import BEAMS, CudaGraphCapture, GraphCapture, StepGraphs, bucket
from seamless_engine.job import Job
from seamless_engine.loading.loader import Checkpoint, modules_for
from seamless_engine.memory import profile_run
from seamless_engine.model_inputs import Features
from seamless_engine.models.layers import Network, cumulative
from seamless_engine.models.speech_encoder import SpeechEncoder
from seamless_engine.models.t2u import TextToUnit
from seamless_engine.models.text_decoder import KVPool, TextDecoder
from seamless_engine.models.text_encoder import TextEncoder
from seamless_engine.models.vocoder import Vocoder
from seamless_engine.pass_graphs import PassGraphs
from seamless_engine.recovery import UnrepeatableError, bisect_batch
from seamless_engine.request import SPEECH_OUT, Hypothesis, Task
from seamless_engine.search.completion_queue import CompletionQueue
from seamless_engine.search.native_search import native_search
from seamless_engine.search.schema import Status
from seamless_engine.search.state import SearchState
from seamless_engine.search.step_batch import BatchBuilder, StepBatch
from seamless_engine.search.torch_search import TorchSearch
from seamless_engine.synthesizer import SpeechSynthesizer, SynthesisInput
from seamless_kernels.dispatch import backend_for
from seamless_kernels.fbank import fbank


class ModelRunner:
    def __init__(
        self,
        folder: Path,
        config: ModelConfig,
        options: EngineConfig,
        tasks: tuple[Task, ...],
        device: torch.device,
        dtype: torch.dtype,
        check_weights: bool = False,
    ) -> None:
        self.config = config
        modules = modules_for(tasks)
        checkpoint = Checkpoint.open(folder, config, modules)
        weights = checkpoint.weights(device, dtype, check_weights, options.int8)
        embedding = weights.tensor("shared.weight")
        self.decoder = TextDecoder(weights.at("text_decoder"), embedding, config, options.reference)
        self.speech_encoder = (
            SpeechEncoder(weights.at("speech_encoder"), config, options.reference)
            if "speech_encoder" in modules
            else None
        )
        self.text_encoder = (
            TextEncoder(weights.at("text_encoder"), embedding, config, options.reference)
            if "text_encoder" in modules
            else None
        )
        self.t2u = TextToUnit(weights.at("t2u_model"), config) if "t2u_model" in modules else None
        self.vocoder = Vocoder(weights.at("vocoder"), config) if "vocoder" in modules else None
        self.synthesizer = (
            SpeechSynthesizer(self.t2u, self.vocoder, config, device) if self.t2u and self.vocoder else None
        )
        checkpoint.require_finite()
        self.weight_bytes = checkpoint.bytes_read

        max_length = PROMPT_LENGTH + options.max_new_tokens
        self.decoder.positions.reserve(max_length + self.decoder.positions.first)
        self.pass_bytes = 0
        if device.type == "cuda":
            stages = self.speech_encoder, self.text_encoder, self.vocoder
            self.pass_bytes = profile_run(*stages, options, device)
        num_slots = options.num_slots or _default_slots(
            config, options, device, embedding.element_size(), self.pass_bytes
        )
        self.blocks = BlockManager(num_slots // BLOCK_SIZE, options.max_num_seqs)
        heads = config.decoder_attention_heads
        shape = (config.decoder_layers, num_slots + BLOCK_SIZE, heads, config.hidden_size // heads)
        # Never cleared: on a CPU, pages that no request has touched take no memory.
        self.pool = KVPool(
            torch.empty(shape, dtype=dtype, device=device), torch.empty(shape, dtype=dtype, device=device)
        )
        self.state = SearchState(
            options.max_num_seqs,
            num_slots,
            max_length=max_length,
            max_source=options.max_source_tokens,
            max_bad_word_tokens=options.max_bad_word_tokens,
            eos=config.eos_token_id,
            like=embedding,
        )
        self.search = native_search(self.state) or TorchSearch(self.state)
        self.batches, self.step = BatchBuilder(options.max_num_seqs, max_length, device), self._step
        self.max_encoder_tokens: Network = self._encode_rows
        self.encode_tokens: Network | None = self.text_encoder
        self.pass_graphs: list[PassGraphs] = []
        self.recorder: CudaGraphCapture | None = None
        # What torch does in place of a kernel reads lengths back, which a graph cannot.
        by_kernels = backend_for(device, {"triton": None, "torch": None}) == "triton"
        if device.type == "cuda" and options.cuda_graphs and by_kernels:
            self.recorder = record = CudaGraphCapture()
            # One width of the tables: attention looks at lengths, not at what a row could hold.
            self.batches = BatchBuilder(options.max_num_seqs, max_length, device, bucket, width=max_length)
            self.step = StepGraphs(self._step, record)
            self.graph_passes(record)
        # On a GPU the host does not wait for the step that it has just launched.
        self.completions = CompletionQueue(delay=1 if device.type == "cuda" else 0)
        self.device = device
        if isinstance(self.step, StepGraphs):
            self.record_steps(PROMPT_LENGTH * options.max_num_seqs)

    def graph_passes(self, record: GraphCapture) -> None:
        """From now on, launch the networks of small passes as graphs. To be called once."""

        def graphs(run: Network, outputs_of: Callable[[int, int], int] = lambda rows, _: rows) -> PassGraphs:
            self.pass_graphs.append(PassGraphs(run, outputs_of, record))
            return self.pass_graphs[-1]

        stride, t2u, vocoder = self.config.adaptor_stride, self.t2u, self.vocoder
        self.max_encoder_tokens = graphs(self._encode_rows, lambda rows, segments: rows // stride + segments)
        if self.text_encoder:
            self.encode_tokens = graphs(self.text_encoder)
        if t2u:
            t2u.encoder, t2u.durations, t2u.decoder = map(graphs, (t2u.encoder, t2u.durations, t2u.decoder))
        if vocoder:
            vocoder.durations = graphs(vocoder.durations)
            vocoder.whole = graphs(vocoder.whole, lambda rows, _: rows * vocoder.samples_per_frame)

    def _encode_rows(
        self, rows: torch.Tensor, cu_seqlens: torch.Tensor, valid: torch.Tensor, encodings: int
    ) -> torch.Tensor:
        assert self.speech_encoder is not None
        return self.speech_encoder(rows, cu_seqlens, valid, encodings)[0]

    @torch.inference_mode()
    def encode(self, admitted: list[tuple[Job, list[int]]]) -> None:
        """Run the encoder of each request and store its cross-attention keys and values."""
        self.state.admit(admitted)
        jobs = [job for job, _ in admitted if job.source is not None]  # the others were done before a part failed
        kinds = {torch.Tensor: self._encode_speech, Features: self._encode_features, list: self._encode_text}
        for kind, encode in kinds.items():
            alike = [job for job in jobs if isinstance(job.source, kind)]
            if alike:
                self._store(alike, encode(alike))

    def _encode_speech(self, jobs: list[Job]) -> torch.Tensor:
        lengths = [len(job.source) for job in jobs]
        waveform = torch.cat([job.source for job in jobs]).to(self.device)
        features, cu_seqlens, valid = fbank(waveform, [0, *itertools.accumulate(lengths)])
        return self.max_encoder_tokens(features, cu_seqlens, valid, sum(job.encoder_length for job in jobs))

    def _encode_features(self, jobs: list[Job]) -> torch.Tensor:
        rows = torch.cat([job.source.frames for job in jobs]).to(self.device)
        cu_seqlens = cumulative(torch.tensor([len(job.source.frames) for job in jobs], device=self.device))
        valid = torch.tensor([job.source.valid for job in jobs], dtype=torch.int32, device=self.device)
        return self.max_encoder_tokens(rows, cu_seqlens, valid, sum(job.encoder_length for job in jobs))

    def _encode_text(self, jobs: list[Job]) -> torch.Tensor:
        assert self.encode_tokens is not None
        tokens = torch.tensor([token for job in jobs for token in job.source], device=self.device)
        lengths = torch.tensor([len(job.source) for job in jobs], device=self.device)
        return self.encode_tokens(tokens, cumulative(lengths))

    def _store(self, jobs: list[Job], encodings: torch.Tensor) -> None:
        slots = torch.cat([self.state.cross_slots(job) for job in jobs])
        self.decoder.store_encoder_states(encodings, slots, self.pool)
        for job in jobs:
            job.source = None

    @torch.inference_mode()
    def record_steps(self, most: int) -> None:
        """Run a decode step of nobody in every usual shape of up to so many lines, so that no request waits for it."""
        # The largest first: what it needs in between is room for the others.
        for lines in sorted({bucket(count) for count in range(1, most + 1)}, reverse=True):
            for beams in BEAMS:
                self.step(self.batches.dummy(lines, beams))

    @torch.inference_mode()
    def decode(self, jobs: list[Job]) -> list[tuple[Job, Status | Exception]]:
        """One step of every request. Returns those whose searches are known to be over by now, or broken, or failed."""
        running = [job for job in jobs if job.position < job.max_length]  # the others' last flags are on their way
        failed = dict(bisect_batch(self._decode, running) if running else [])
        ended = self.completions.pop(drain=not running or bool(failed))
        for job, _ in ended:
            failed.pop(job, None)  # its text was there before the step that failed
        return [*ended, *failed.items()]

    def _decode(self, jobs: list[Job]) -> None:
        batch = self.batches.batch(jobs)
        try:
            status = self.step(batch)
        except torch.AcceleratorError:
            raise
        except Exception as error:
            if self.search.updating:
                raise UnrepeatableError(f"a decode step failed while it changed this search ({error})") from error
            raise
        for job in jobs:
            job.position += PROMPT_LENGTH if job.position == 0 else 1
        self.completions.push(batch.searches, status)

    def _step(self, batch: StepBatch) -> torch.Tensor:
        """Nothing here waits for the device. Returns int32 [searches]: the status of each as the step leaves it."""
        inputs = self.search.prepare_inputs(batch, self.config.decoder_start_token_id)
        hidden = self.decoder.step(inputs, self.pool)
        self.state.state_pool.index_copy_(0, inputs.slots, hidden)
        self.search.update_state(batch, self.decoder.next_tokens(hidden))
        return self.state.status[batch.search_id]

    def finish(self, job: Job) -> None:
        """Take the hypotheses of a finished search out of the pools."""
        eos = self.config.eos_token_id
        finished = self.state.finished(job)
        for hypothesis in finished:
            log_probs = hypothesis.log_probs if job.params.return_token_logprobs else None
            reason = "eos" if hypothesis.tokens[-1] == eos else "length"
            job.result.n_best.append(Hypothesis("", hypothesis.tokens, hypothesis.score, reason, log_probs))
        if job.request.task in SPEECH_OUT:
            pools = self.state.state_pool, self.state.token_pool
            job.speech = [SynthesisInput(*(pool[hypothesis.slots] for pool in pools)) for hypothesis in finished]

    def synthesize(self, jobs: list[Job]) -> None:
        """Units and waveform of every hypothesis of the requests."""
        assert self.synthesizer is not None
        self.synthesizer.speak(jobs)

    def memory(self) -> dict[str, int]:
        """Bytes by holder, as `Engine.memory` says."""
        buffers = (value for value in vars(self.state).values() if isinstance(value, torch.Tensor))
        held = {
            **{f"weights.{module}": size for module, size in self.weight_bytes.items()},
            "kv_pool": self.pool.k.nbytes + self.pool.v.nbytes,
            "decode_buffers": sum(tensor.nbytes for tensor in buffers),
        }
        if self.device.type == "cuda":
            held["passes"] = self.pass_bytes
            held["graphs"] = sum(graphs.input_bytes for graphs in self.pass_graphs)
            held["graphs"] += self.recorder.nbytes if self.recorder else 0
        return held


def _default_slots(
    config: ModelConfig, options: EngineConfig, device: torch.device, element_size: int, passes: int
) -> int:
    """As many slots as the rows can use with default lengths, within the fraction of memory that is ours.

    passes: bytes that must stay free for what the largest pass needs in between.
    """
    hidden = config.hidden_size
    slot_bytes = (2 * config.decoder_layers + 1) * hidden * element_size + 8
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    useful = (
        options.max_num_seqs * (PROMPT_LENGTH + config.max_new_tokens + 2 * BLOCK_SIZE) + options.max_source_tokens * 4
    )
    slots = min(int(max(free - passes, 0) * options.memory_fraction) // slot_bytes, useful)
    return max(slots, 2 * BLOCK_SIZE) // BLOCK_SIZE * BLOCK_SIZE
