"""The interface of a torch module, for a model whose weights belong to an engine."""

from __future__ import annotations

import abc
import gc
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, Self

import torch

from seamless_engine.config import ModelConfig
from seamless_engine.device import resolve_device, resolve_dtype
from seamless_engine.engine import Engine
from seamless_engine.errors import UsageError
from seamless_engine.hf.config import SeamlessM4Tv2Config
from seamless_engine.hf.stored_weight import StoredWeight, stored_weights, tied_names
from seamless_engine.loading.loader import modules_for

_HINTS = {
    "gradient_checkpointing_enable": "the engine does not train",
    "save_pretrained": "the checkpoint is in model.folder, copy it from there",
    "t2u_model": "generate() with return_intermediate_token_ids=True gives the units",
    "text_decoder": "model(..., decoder_input_ids=...) gives its logits",
    "vocoder": "generate() gives the waveform",
}


class LazyEngine:
    """The engine of a model that can be moved.

    The weights of an engine are packed for one dtype and one device. After a move the next use loads the checkpoint
    again, so that no precision is lost: after `.half().float()` the weights are those of the file.
    """

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.folder = folder
        self.config: ModelConfig = engine.config
        self.modules = modules_for(engine.tasks)
        self.device, self.dtype = engine.device, engine.dtype
        self._tasks, self._options = engine.tasks, engine.options
        self._engine: Engine | None = engine
        self._lock = threading.Lock()

    def get(self) -> Engine:
        """Raises what `Engine.from_pretrained` raises; the next call then tries again."""
        with self._lock:
            if self._engine is None:
                self._engine = Engine.from_pretrained(
                    self.folder, tasks=self._tasks, device=self.device, dtype=self.dtype, options=self._options
                )
            return self._engine

    def move(self, device: torch.device | None, dtype: torch.dtype | None) -> None:
        """None keeps the device or the dtype. Raises UsageError if the engine does not run there."""
        where = self.device if device is None else resolve_device(device)
        precision = self.dtype if dtype is None else resolve_dtype(dtype, where)
        with self._lock:
            if (where, precision) != (self.device, self.dtype):
                self.device, self.dtype, self._engine = where, precision, None
                gc.collect()  # an engine has reference cycles, and the caller may need the memory now
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()

    def weights(self) -> dict[str, StoredWeight]:
        return stored_weights(self.folder, self.config, self.modules, self.device, self.dtype)


class ReadOnlyModule(torch.nn.Module, abc.ABC):
    """A `torch.nn.Module` for inference. The numbers of a parameter are read from the checkpoint when they are used.

    Methods that would train it, change its weights or give access to its layers raise UsageError.
    """

    def __init__(self, loaded: LazyEngine, config: SeamlessM4Tv2Config) -> None:
        super().__init__()
        self.training = False
        self.config = config
        self._loaded = loaded

    @property
    def device(self) -> torch.device:
        return self._loaded.device

    @property
    def dtype(self) -> torch.dtype:
        return self._loaded.dtype

    def _move(self, device: torch.device | None, dtype: torch.dtype | None) -> None:
        """None keeps the device or the dtype."""
        self._loaded.move(device, dtype)

    def _weights(self) -> dict[str, StoredWeight]:
        """By name, tied weights once."""
        return self._loaded.weights()

    def _ties(self) -> dict[str, str]:
        """Further names in `state_dict` → names in `_weights`."""
        return tied_names(self._loaded.modules)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As `torch.nn.Module.to`: takes a device, a dtype, the index of a GPU, or a tensor that has both.

        Raises UsageError for a device or a dtype that the engine does not support.
        """
        try:
            device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)  # pyright: ignore
        except (TypeError, RuntimeError) as error:
            raise UsageError(f"to() takes a device, a dtype, or both: {error}") from None
        self._move(device, dtype)
        return self

    def cpu(self) -> Self:
        return self.to("cpu")

    def cuda(self, device: int | torch.device | None = None) -> Self:
        return self.to("cuda" if device is None else device)

    def float(self) -> Self:
        return self.to(torch.float32)

    def half(self) -> Self:
        return self.to(torch.float16)

    def bfloat16(self) -> Self:
        return self.to(torch.bfloat16)

    def double(self) -> Self:
        return self.to(torch.float64)

    def type(self, dst_type: torch.dtype) -> Self:
        return self.to(dst_type)

    def train(self, mode: bool = True) -> Self:
        if mode:
            _refuse("train(): the engine does not train")
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        if requires_grad:
            _refuse("requires_grad_(): the engine computes no gradients")
        return self

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """As transformers' parameters, by name, shape and number; requires_grad is False."""
        if not recurse:
            return
        for name, weight in self._weights().items():
            yield f"{prefix}.{name}" if prefix else name, weight  # pyright: ignore[reportReturnType]

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        weights = {} if only_trainable else self._weights()
        return sum(
            weight.numel() for name, weight in weights.items() if not (exclude_embeddings and _is_embedding(name))
        )

    def state_dict(self, *, prefix: str = "", **_: Any) -> dict[str, Any]:  # pyright: ignore
        """Read-only tensors by name, tied tensors under each of their names."""
        weights = self._weights()
        found = OrderedDict((prefix + name, weight) for name, weight in weights.items())
        found.update((prefix + other, weights[name]) for other, name in self._ties().items())
        return found

    def load_state_dict(self, *_: Any, **__: Any) -> NoReturn:
        _refuse("load_state_dict(): weights are read-only, change the checkpoint and load it again")

    def _apply(self, *_: Any, **__: Any) -> NoReturn:
        _refuse("a change of its weights: they are read-only; to() and its relatives move them")

    def __deepcopy__(self, memo: Any) -> NoReturn:
        _refuse("copy.deepcopy: load the checkpoint a second time, or share the model")

    def __reduce__(self) -> NoReturn:
        _refuse("pickle: send the folder of the checkpoint, and load it there")

    def __copy__(self) -> Self:
        other = type(self).__new__(type(self))
        vars(other).update(vars(self))
        return other

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            hint = _HINTS.get(name, "what there is stands in docs/transformers-arguments.md")
            raise AttributeError(f"{type(self).__name__} has no {name!r}: {hint}") from None

    def register_forward_hook(self, *_: Any, **__: Any) -> NoReturn:
        _refuse("hooks: generate() runs no torch modules that could call them")

    register_forward_pre_hook = register_full_backward_hook = register_full_backward_pre_hook = register_forward_hook
    register_backward_hook = register_state_dict_post_hook = register_forward_hook


def _refuse(what: str) -> NoReturn:
    raise UsageError(f"the model does not support {what}")


def _is_embedding(name: str) -> bool:
    """Whether the weight is that of a torch.nn.Embedding in transformers."""
    return name == "shared.weight" or (name.endswith(".weight") and "embed" in name.split(".")[-2])


def check_neutral(call: str, kwargs: dict[str, Any], reason: str) -> None:
    """Raises UsageError if an argument of a forward() has an effect in transformers. reason: what the call returns."""
    neutral = {"use_cache": (False, True), "return_dict": (True,)}
    for name, value in kwargs.items():
        if value is not None and not any(value is fine for fine in neutral.get(name, (False,))):
            raise UsageError(f"{call} does not support {name}: {reason}")
