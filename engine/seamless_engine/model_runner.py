"""Owns the weights and the pools, and runs the three kinds of pass: encode, decode, synthesize."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from seamless_engine.block_manager import BLOCK_SIZE, PROMPT_LENGTH, BlockManager, slots_of
from seamless_engine.config import EngineConfig, ModelConfig
from seamless_engine.cuda_graphs import (
    BEAMS,
    PASS_SIZES,
    GraphCapture,
    PassGraphs,
    StepGraphs,
    bucket,
    graph_capture,
    table_width,
)
from seamless_engine.job import FinishedHypothesis, Job, Stage
from seamless_engine.loading.loader import Checkpoint, modules_for
from seamless_engine.memory import pool_slots, profile_run
from seamless_engine.model_inputs import Features
from seamless_engine.models.layers import Network, cumulative
from seamless_engine.models.lengths import bounds_of, encoder_length, packed_frames
from seamless_engine.models.speech_encoder import SpeechEncoder
from seamless_engine.models.t2u import TextToUnit
from seamless_engine.models.text_decoder import KVPool, TextDecoder
from seamless_engine.models.text_encoder import TextEncoder
from seamless_engine.models.vocoder import Vocoder
from seamless_engine.recovery import UnrepeatableError, bisect_batch
from seamless_engine.request import SPEECH_OUT, Hypothesis, Task
from seamless_engine.search.completion_queue import CompletionQueue
from seamless_engine.search.finished import FinishedSearches
from seamless_engine.search.native_search import native_search
from seamless_engine.search.schema import Status
from seamless_engine.search.state import SearchState
from seamless_engine.search.step_batch import BatchBuilder, StepBatch
from seamless_engine.search.torch_search import TorchSearch
from seamless_engine.source import Source
from seamless_engine.synthesizer import SpeechSynthesizer, SynthesisInput
from seamless_kernels.fbank import fbank
from seamless_kernels.linear_top_candidates import LOGITS_BYTES
from seamless_kernels.transfer import upload, upload_packed


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
        self.options = options
        self.device = device
        self.dtype = dtype
        self.max_length = PROMPT_LENGTH + options.max_new_tokens
        self.capture = graph_capture(device, options)
        self.pass_graphs: list[PassGraphs] = []
        self._load_networks(folder, modules_for(tasks), check_weights)
        self.pass_bytes = 0
        if device.type == "cuda":
            self.pass_bytes = profile_run(self.speech_encoder, self.text_encoder, self.vocoder, options, device)
        self._allocate_pools()
        self.step: Callable[[StepBatch], torch.Tensor] = self.run_step
        self.batches = BatchBuilder(options.max_num_seqs, self.max_length, device, all_choose=device.type == "cpu")
        self.apart_batches = BatchBuilder(options.max_num_seqs, self.max_length, device)
        # On a GPU, the host reads the statuses of a step after it has launched the next one.
        self.completions = CompletionQueue(delay=1 if device.type == "cuda" else 0)
        self.finished: list[FinishedSearches] = []
        if self.capture is not None:
            self.launch_by_graphs(self.capture)
            self.warmup()

    def _load_networks(self, folder: Path, modules: Sequence[str], check_weights: bool) -> None:
        config, reference = self.config, self.options.reference
        checkpoint = Checkpoint.open(folder, config, modules)
        weights = checkpoint.weights(self.device, self.dtype, check_weights, self.options.int8)
        embedding = weights.tensor("shared.weight")
        self.decoder = TextDecoder(weights.at("text_decoder"), embedding, config, reference)
        self.speech_encoder: SpeechEncoder | None = None
        self.encode_frames: Network | None = None
        self.text_encoder: TextEncoder | None = None
        self.encode_tokens: Network | None = None
        self.t2u: TextToUnit | None = None
        self.vocoder: Vocoder | None = None
        self.synthesizer: SpeechSynthesizer | None = None
        if "speech_encoder" in modules:
            self.speech_encoder = SpeechEncoder(weights.at("speech_encoder"), config, reference)
            self.encode_frames = self._launch(
                self.speech_encoder, lambda frames, clips: encoder_length(frames, config.adaptor_stride) + clips - 1
            )
        if "text_encoder" in modules:
            self.text_encoder = TextEncoder(weights.at("text_encoder"), embedding, config, reference)
            self.encode_tokens = self._launch(self.text_encoder)
        if "t2u_model" in modules:
            self.t2u = TextToUnit(weights.at("t2u_model"), config, self._launch)
        if "vocoder" in modules:
            self.vocoder = Vocoder(weights.at("vocoder"), config, self._launch)
        if self.t2u is not None and self.vocoder is not None:
            self.synthesizer = SpeechSynthesizer(self.t2u, self.vocoder, config, self.device)
        checkpoint.require_finite()
        self.weight_bytes = checkpoint.bytes_read

    def _launch(self, network: Network, max_outputs: Callable[[int, int], int] | None = None) -> Network:
        """The network, or what launches its small passes as graphs."""
        if self.capture is None:
            return network
        self.pass_graphs.append(PassGraphs(network, max_outputs, self.capture, PASS_SIZES))
        return self.pass_graphs[-1]

    def _allocate_pools(self) -> None:
        config, options, like = self.config, self.options, self.decoder.embedding
        num_slots = pool_slots(config, options, self.device, like.element_size(), self.pass_bytes)
        self.decoder.positions.reserve(self.max_length + self.decoder.positions.first)
        self.blocks = BlockManager(num_slots // BLOCK_SIZE, options.max_num_seqs)
        heads = config.decoder_attention_heads
        shape = (config.decoder_layers, num_slots + BLOCK_SIZE, heads, config.hidden_size // heads)
        # Not cleared: on a CPU, pages that no request has used take no memory.
        self.pool = KVPool(like.new_empty(shape), like.new_empty(shape))
        self.state = SearchState(
            options.max_num_seqs,
            num_slots,
            max_length=self.max_length,
            max_source=options.max_source_tokens,
            max_bad_word_tokens=options.max_bad_word_tokens,
            eos=config.eos_token_id,
            like=like,
        )
        self.search = native_search(self.state) or TorchSearch(self.state)

    def launch_by_graphs(self, capture: GraphCapture) -> StepGraphs:
        """From now on a decode step is a graph, beside what requests that choose apart need."""
        self.step = graphs = StepGraphs(self.run_step, capture)
        self.batches = BatchBuilder(
            self.options.max_num_seqs, self.max_length, self.device, bucket, table_width, all_choose=False
        )
        return graphs

    def warmup(self) -> None:
        """Capture the graphs of small passes and of the usual decode steps before the first request.

        The largest come first: the others find enough intermediate memory in the pool of the graphs then.
        """
        for size in reversed(PASS_SIZES):
            self._warmup_passes(size)
        self.warmup_steps()

    @torch.inference_mode()
    def _warmup_passes(self, size: int) -> None:
        """Run a pass of one segment of `size` tokens through every network."""
        valid = torch.tensor([size], dtype=torch.int32, device=self.device)
        bounds, like, config = cumulative(valid), self.decoder.embedding, self.config
        if self.encode_frames is not None:
            frames = like.new_zeros(size, config.feature_projection_input_dim, dtype=torch.float32)
            self.encode_frames(frames, bounds, valid, encoder_length(size, config.adaptor_stride))
        if self.encode_tokens is not None:
            self.encode_tokens(bounds.new_zeros(size, dtype=torch.int64), bounds)
        if self.t2u is not None:
            states = like.new_zeros(size, config.hidden_size)
            self.t2u.encoder(states, bounds, valid)
            self.t2u.durations(states, bounds)
            self.t2u.decoder(states, bounds)
        if self.vocoder is not None:
            self.vocoder.durations(like.new_zeros(size, config.unit_embed_dim), bounds)
            embedded = like.new_zeros(size, config.lang_embed_dim + config.unit_embed_dim + config.spkr_embed_dim)
            self.vocoder.generate_clips(embedded, bounds)

    @torch.inference_mode()
    def warmup_steps(self) -> None:
        """Run a decode step of padding in every usual shape."""
        most = PROMPT_LENGTH * self.options.max_num_seqs
        for num_queries in sorted({bucket(count) for count in range(1, most + 1)}, reverse=True):
            for num_beams in BEAMS:
                self.step(self.batches.dummy(num_queries, num_beams))

    @torch.inference_mode()
    def encode(self, admitted: list[tuple[Job, list[int]]]) -> None:
        """Run the encoder of each request, and store the cross-attention keys and values."""
        self.state.admit(admitted)
        # None: encoded before another part of the pass failed.
        waiting = [(job, job.source, blocks) for job, blocks in admitted if job.source is not None]
        if not waiting:
            return
        self._encode_sources({source: job.encoder_length for job, source, _ in waiting})
        states = torch.cat([source.states() for _, source, _ in waiting])
        cross_slots = [slots_of(blocks)[: job.encoder_length] for job, _, blocks in waiting]
        (slots,) = upload(self.device, np.concatenate(cross_slots).astype(np.int64))
        self.decoder.store_encoder_states(states, slots, self.pool)
        for job, source, _ in waiting:
            job.source = None
            source.release()

    def _encode_sources(self, lengths: dict[Source, int]) -> None:
        """Compute the encoder states of the sources that have none. lengths: of the states."""
        encoders = {torch.Tensor: self.encode_audio, Features: self.encode_features, list: self.encode_text}
        for kind, encoder in encoders.items():
            new = [one for one in lengths if isinstance(one.content, kind) and one.encoder_states is None]
            if new:
                states = encoder([source.content for source in new])
                for source, part in zip(new, states.split([lengths[source] for source in new]), strict=True):
                    source.enter(part)

    def encode_audio(self, clips: list[torch.Tensor]) -> torch.Tensor:
        """Waveforms float32 [samples] → encoder states [total, dim]."""
        assert self.encode_frames is not None
        frames = fbank(upload_packed(self.device, clips), [0, *itertools.accumulate(map(len, clips))])
        return self.encode_frames(*frames, self._num_states(packed_frames(len(clip))[1] for clip in clips))

    def encode_features(self, clips: list[Features]) -> torch.Tensor:
        """Features → encoder states [total, dim]."""
        assert self.encode_frames is not None
        frames = upload_packed(self.device, [clip.frames for clip in clips])
        bounds = bounds_of([len(clip.frames) for clip in clips])
        bounds, valid = upload(self.device, bounds, np.array([clip.valid for clip in clips], dtype=np.int32))
        return self.encode_frames(frames, bounds, valid, self._num_states(clip.valid for clip in clips))

    def encode_text(self, sentences: list[list[int]]) -> torch.Tensor:
        """Token ids → encoder states [total, dim]."""
        assert self.encode_tokens is not None
        tokens = np.array([token for sentence in sentences for token in sentence])
        return self.encode_tokens(*upload(self.device, tokens, bounds_of([len(sentence) for sentence in sentences])))

    def _num_states(self, num_whole: Iterable[int]) -> int:
        return sum(encoder_length(count, self.config.adaptor_stride) for count in num_whole)

    @torch.inference_mode()
    def decode(self, jobs: list[Job]) -> list[tuple[Job, Status | Exception]]:
        """Run one step of every request. Returns those that have ended: over and complete, broken, or failed."""
        searching = [job for job in jobs if job.searching]  # the others wait for their hypotheses
        running = [job for job in searching if job.position < job.max_length]  # the others wait for their last status
        failed = dict(bisect_batch(self._decode, running) if running else [])
        apart = [job for job in running if job not in failed and not self.batches.chooses(job)]
        for part in self._parts(apart):
            failed |= bisect_batch(self._choose_apart, part)
        ended = self.completions.pop(drain=not running or bool(failed))
        for job, _ in ended:
            failed.pop(job, None)  # it had ended before the step that failed
        over = [job for job, status in ended if status is Status.OVER]
        # While other requests go on, the host launches their next step before it waits for hypotheses.
        at_once = not self.completions.delay or not any(job.searching for job in running)
        complete = self.finish(over, at_once)
        broken = [(job, status) for job, status in ended if status is not Status.OVER]
        return [*((job, Status.OVER) for job in complete), *broken, *failed.items()]

    def _parts(self, jobs: list[Job]) -> list[list[Job]]:
        """The requests in parts of which the logits take LOGITS_BYTES at most; a request is in one part."""
        parts: list[list[Job]] = []
        room = 0
        for job in jobs:
            if not parts or job.num_queries > room:
                parts.append([])
                room = LOGITS_BYTES // (4 * len(self.decoder.head))
            parts[-1].append(job)
            room -= job.num_queries
        return parts

    def _decode(self, jobs: list[Job]) -> None:
        self._launch_step(self.step, self.batches.batch(jobs), [job for job in jobs if self.batches.chooses(job)])

    def _choose_apart(self, jobs: list[Job]) -> None:
        self._launch_step(self.run_choice, self.apart_batches.batch(jobs), jobs)

    def _launch_step(self, step: Callable[[StepBatch], torch.Tensor], batch: StepBatch, choosing: list[Job]) -> None:
        self.search.updating = False
        try:
            status = step(batch)
        except torch.AcceleratorError:
            raise
        except Exception as error:
            if self.search.updating:
                raise UnrepeatableError(f"a decode step failed while it changed this search ({error})") from error
            raise
        for job in choosing:
            job.position += PROMPT_LENGTH if job.position == 0 else 1
        self.completions.push(batch.searches, status)

    def run_step(self, batch: StepBatch) -> torch.Tensor:
        """One decode step, without waiting for the device. Returns the status of each search: int32 [searches].

        Requests that choose apart have their hidden states in the pool afterwards, for `run_choice`.
        """
        inputs = self.search.prepare_inputs(batch, self.config.decoder_start_token_id)
        hidden = self.decoder.step(inputs, self.pool)
        self.state.state_pool.index_copy_(0, inputs.slots, hidden)
        return self._choose(batch, hidden)

    def run_choice(self, batch: StepBatch) -> torch.Tensor:
        """The end of a decode step for requests that choose apart. Returns as `run_step`."""
        inputs = self.search.prepare_inputs(batch, self.config.decoder_start_token_id)  # as in the step
        return self._choose(batch, self.state.state_pool[inputs.slots])

    def _choose(self, batch: StepBatch, hidden: torch.Tensor) -> torch.Tensor:
        if batch.graph_key.beams:
            self.search.update_state(batch, self.decoder.next_tokens(hidden))
        return self.state.status[batch.search_id]

    @torch.inference_mode()
    def finish(self, over: list[Job], at_once: bool) -> list[Job]:
        """Have the hypotheses of finished searches read, and wait for those of the last call.

        at_once: for both. Returns the requests that have their hypotheses now.
        """
        due = self.finished
        self.finished = [FinishedSearches(self.state, over)] if over else []
        if at_once:
            due, self.finished = [*due, *self.finished], []
        return [job for finished in due for job in self._enter_hypotheses(finished)]

    def _enter_hypotheses(self, finished: FinishedSearches) -> list[Job]:
        """Returns the requests that are still there."""
        eos = self.config.eos_token_id
        found = [
            (job, hypotheses)
            for job, hypotheses in zip(finished.jobs, finished.wait(), strict=True)
            if job.stage is Stage.DECODING
        ]
        for job, hypotheses in found:
            for hypothesis in hypotheses:
                log_probs = hypothesis.log_probs if job.params.return_token_logprobs else None
                reason = "eos" if hypothesis.tokens[-1] == eos else "length"
                job.result.n_best.append(Hypothesis("", hypothesis.tokens, hypothesis.score, reason, log_probs))
        speaking = [(job, hypotheses) for job, hypotheses in found if job.request.task in SPEECH_OUT]
        inputs = self._synthesis_inputs([hypothesis for _, hypotheses in speaking for hypothesis in hypotheses])
        for job, hypotheses in speaking:
            job.speech = [next(inputs) for _ in hypotheses]
        return [job for job, _ in found]

    def _synthesis_inputs(self, hypotheses: list[FinishedHypothesis]) -> Iterator[SynthesisInput]:
        """Copies, which the device makes before a later step has their slots."""
        if not hypotheses:
            return iter(())
        (slots,) = upload(self.device, np.concatenate([hypothesis.slots for hypothesis in hypotheses]))
        lengths = [len(hypothesis.slots) for hypothesis in hypotheses]
        return map(
            SynthesisInput, self.state.state_pool[slots].split(lengths), self.state.token_pool[slots].split(lengths)
        )

    def synthesize(self, jobs: list[Job]) -> Callable[[], None]:
        """The units of every hypothesis of the requests. What is returned waits for the waveforms."""
        assert self.synthesizer is not None
        return self.synthesizer.synthesize(jobs)

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
            held["graphs"] += self.capture.nbytes if self.capture else 0
        return held
