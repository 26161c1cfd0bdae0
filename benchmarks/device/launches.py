"""Every Triton launch of the engine on a GPU that is not here: its passes run on tensors that have a shape and no
memory."""

from __future__ import annotations

import importlib
import itertools
import pkgutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from triton.runtime.jit import JITFunction

import seamless_kernels
from benchmarks.device.candidates import available
from benchmarks.kernels.case import Setup
from benchmarks.kernels.registry import CASES
from seamless_engine import model_runner
from seamless_engine.config import EngineConfig, ModelConfig
from seamless_engine.cuda_graphs import GraphCapture, Work
from seamless_engine.loading.tensor_table import tensor_shapes
from seamless_engine.memory import profile_run
from seamless_engine.model_runner import ModelRunner
from seamless_engine.models.layers import Weights
from seamless_engine.request import TASKS
from seamless_engine.search.step_batch import GraphKey
from seamless_kernels import config, dispatch
from seamless_kernels.linear import pack_weight

META = torch.device("meta")
_PROCESSORS = {"sm_90": 132}  # of an H100 and an H200
_SENTENCES, _CHARACTERS, _UNITS = 530, 2000, 7000  # of a full synthesis pass: states, characters and units


class MetaCheckpoint:
    """In place of `Checkpoint`: weights without numbers."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self.shapes = shapes
        self.bytes_read: dict[str, int] = {}

    @classmethod
    def open(cls, _: Path, model: ModelConfig, modules: Any) -> MetaCheckpoint:
        return cls(tensor_shapes(model, modules))

    def weights(self, device: torch.device, dtype: torch.dtype, *_: Any) -> Weights:
        def read(name: str, override: torch.dtype | None) -> torch.Tensor:
            return torch.empty(self.shapes[name], dtype=override or dtype, device=device)

        return Weights(read, lambda _, weight, __: pack_weight(weight))

    def require_finite(self) -> None:
        """There are no numbers."""


class NoCapture(GraphCapture):
    """Has passes and steps launched by the host in the shapes that they have as graphs."""

    def try_capture(self, work: Work) -> None:
        return None

    @property
    def nbytes(self) -> int:
        return 0


@contextmanager
def on_gpu(arch: str, compiled: Callable[[Any], None] | None = None) -> Iterator[Counter[str]]:
    """Operations on tensors of device "meta" select and launch the kernels that they launch on a GPU of `arch`. No
    kernel runs. Counts the launches by name.

    compiled: called with the compiled kernel of each launch; None compiles nothing.
    """
    launch, counts = JITFunction.run, Counter()

    def record(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        counts[self.fn.__name__] += 1
        if compiled is not None:
            compiled(launch(self, *args, grid=grid, warmup=True, **options))

    names = [f"seamless_kernels.{module.name}" for module in pkgutil.iter_modules(seamless_kernels.__path__)]
    modules = [importlib.import_module(name) for name in names]
    with ExitStack() as stack:
        stack.callback(dispatch.reset)
        stack.enter_context(patch.dict(dispatch.BACKENDS, meta=dispatch.BACKENDS["cuda"]))
        dispatch.reset()
        stack.enter_context(patch.object(config, "architecture", lambda _: arch))
        for module in (module for module in modules if hasattr(module, "num_sms")):
            stack.enter_context(patch.object(module, "num_sms", lambda *_: _PROCESSORS[arch]))
        stack.enter_context(patch.object(JITFunction, "run", record))
        stack.enter_context(torch.inference_mode())
        yield counts


def walk_engine(model: ModelConfig, options: EngineConfig, dtype: torch.dtype) -> None:
    """The passes and steps that an engine of this kind runs when it starts, and the largest ones, in one layer of each
    stack: the others launch the same kernels."""
    options = replace(options, num_slots=options.num_slots or 1 << 17)
    model = replace(model, **{field.name: 1 for field in fields(model) if field.name.endswith("_layers")})
    with ExitStack() as stack:
        for name, value in (
            ("Checkpoint", MetaCheckpoint),
            ("graph_capture", lambda *_: NoCapture()),
            ("SpeechSynthesizer", lambda *_: None),  # it reads a table of characters
            ("native_search", lambda _: None),  # the search in torch launches the same kernels of Triton
        ):
            stack.enter_context(patch.object(model_runner, name, value))
        runner = ModelRunner(Path(), model, options, TASKS, META, dtype)  # runs the passes and steps of graphs
    profile_run(runner.speech_encoder, runner.text_encoder, runner.vocoder, options, META)
    _walk_synthesis(runner)
    for count in (63, 32 * 63):  # encoder states of a clip of 10 s, and of a full pass
        states = torch.empty(count, model.hidden_size, dtype=dtype, device=META)
        runner.decoder.store_encoder_states(states, torch.empty(count, dtype=torch.int64, device=META), runner.pool)
    widths = {field.name: runner.max_length for field in fields(GraphKey) if field.name.endswith("width")}
    for beams, queries in itertools.product((1, 5), (5, 64, 1280)):
        batch = runner.batches.dummy(min(queries, options.max_num_seqs), beams)
        for change in (widths, {"min_new_tokens": True}, {"needs_logits": (0, 1)}):
            runner.run_step(replace(batch, graph_key=replace(batch.graph_key, **change)))


def _walk_synthesis(runner: ModelRunner) -> None:
    assert runner.t2u is not None
    bounds, valid = (torch.empty(count, dtype=torch.int32, device=META) for count in (15, 14))

    def states(count: int) -> torch.Tensor:
        return torch.empty(count, runner.config.hidden_size, dtype=runner.dtype, device=META)

    runner.t2u.encoder(states(_SENTENCES), bounds, valid)
    runner.t2u.durations(states(_CHARACTERS), bounds)
    runner.t2u.logits(runner.t2u.decoder(states(_UNITS), bounds)[:512])
    assert runner.vocoder is not None
    runner.vocoder.durations(states(_UNITS).new_empty(_UNITS, runner.config.unit_embed_dim), bounds)


def walk_benchmarks(dtype: torch.dtype, quick: bool = False) -> list[str]:
    """The cases of all operations, by our kernels and by candidates. Returns what failed without numbers; cases that a
    candidate does not take are left out."""
    setup, refused = Setup(META, dtype, quick), []
    for op, cases in CASES.items():
        walked = {"ours", "ours int8", *(candidate.name for candidate in available(op, META))}
        for case in cases(setup):
            inputs = case.inputs()
            for name in walked & case.implementations.keys():
                try:
                    case.implementations[name](*inputs)
                except NotImplementedError:
                    continue
                except Exception as error:  # a candidate may fail in its own ways
                    refused.append(f"{op}, {case.name}: {name}: {(str(error).splitlines() or [repr(error)])[0]}")
    return refused
