"""What scripts do with a torch module, for a model whose weights are the engine's."""

from __future__ import annotations

import abc
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NoReturn, Self

import torch

from seamless_engine.errors import UsageError
from seamless_engine.hf.stored_weight import StoredWeight

_HINTS = {
    "gradient_checkpointing_enable": "the engine does not train",
    "save_pretrained": "the checkpoint is in model.folder, copy it from there",
    "t2u_model": "generate() with return_intermediate_token_ids=True gives the units",
    "text_decoder": "model(..., decoder_input_ids=...) gives its logits",
    "vocoder": "generate() gives the waveform",
}


class ReadOnlyModule(torch.nn.Module, abc.ABC):
    """A `torch.nn.Module` for inference. Parameters are read from the checkpoint when their numbers are asked for.

    What would train it, change its weights or look between its layers raises UsageError.
    """

    def __init__(self) -> None:
        super().__init__()
        self.training = False

    @property
    @abc.abstractmethod
    def device(self) -> torch.device: ...

    @property
    @abc.abstractmethod
    def dtype(self) -> torch.dtype: ...

    @abc.abstractmethod
    def _move(self, device: torch.device | None, dtype: torch.dtype | None) -> None: ...

    @abc.abstractmethod
    def _weights(self) -> dict[str, StoredWeight]:
        """By name, tied ones once."""

    @abc.abstractmethod
    def _ties(self) -> dict[str, str]:
        """Further names of `state_dict` → names of `_weights`."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As `torch.nn.Module.to`: a device, a dtype, the number of a GPU, or a tensor to be like.

        Raises UsageError for a device or a dtype on which the engine does not run.
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
        """Names, shapes and numbers are those of transformers' parameters; requires_grad is False."""
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
        """Read-only tensors by name, tied ones under each of their names."""
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
    """Raises UsageError if an argument of a forward() asks for something. reason: what the call gives instead."""
    neutral = {"use_cache": (False, True), "return_dict": (True,)}
    for name, value in kwargs.items():
        if value is not None and not any(value is fine for fine in neutral.get(name, (False,))):
            raise UsageError(f"{call} does not support {name}: {reason}")
