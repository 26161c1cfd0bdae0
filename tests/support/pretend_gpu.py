"""A GPU for tests that count what the host waits for, on a machine that has none.

A tensor of it says that it is on DEVICE and has its values on the CPU, where operations compute with them. It has
what makes host code differ on a GPU: an operation does not take tensors of the host, data crosses by copies alone, and
host memory is pinned or not. The operations of seamless_kernels run as one launch each.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from seamless_engine import Engine, EngineConfig
from seamless_engine.config import ModelConfig
from seamless_engine.inputs.tokenizer import Tokenizer
from seamless_engine.model_runner import ModelRunner
from seamless_engine.request import TASKS
from seamless_engine.search.completion_queue import CompletionQueue
from seamless_kernels import dispatch, transfer

DEVICE = torch.device("meta")  # the only other device that torch knows in every build
# Their references read lengths back, which the kernels in their place do not.
KERNELS = (
    "attention",
    "conformer_conv",
    "conv1d",
    "conv_transpose1d",
    "kv_cache",
    "layer_norm",
    "linear",
    "linear_top_candidates",
    "paged_attention",
    "rel_attention",
    "residual_block",
    "top_candidates",
)
_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class DeviceTensor(torch.Tensor):
    """values: on the CPU. Views of it have views of the values."""

    values: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> DeviceTensor:
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=DEVICE,
        )
        tensor.values = values
        return tensor

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func is torch.Tensor.__getitem__:
                return DeviceTensor(args[0].values[_index(args[1])])
            if func is torch.Tensor.__setitem__:
                args[0].values[_index(args[1])] = _values(_moved(args[2]))
                return None
            if func is torch.Tensor.tolist:
                return args[0].cpu().tolist()
            return func(*args, **kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} outside of a PretendGpu")


class PretendGpu(TorchDispatchMode):
    """Runs operations on tensors of the device; those of the host are as usual, with pinned memory beside."""

    def __init__(self) -> None:
        super().__init__()
        self._pinned: dict[int, torch.Tensor] = {}  # by address, and alive, so that no other tensor gets it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        with self:  # in inference mode, operations come here before torch has taken them to pieces
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        if func is torch.ops.aten.is_pinned.default:
            return args[0].untyped_storage().data_ptr() in self._pinned
        pins = kwargs.pop("pin_memory", None)
        if func is torch.ops.aten._pin_memory.default:
            func, pins = torch.ops.aten.clone.default, True
        target = kwargs.get("device")
        if target is not None and torch.device(target) == DEVICE:
            kwargs["device"] = torch.device("cpu")
            return DeviceTensor(func(*_values(args), **kwargs))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if not any(isinstance(tensor, DeviceTensor) for tensor in given):
            out = func(*args, **kwargs)
            if pins:
                self._pinned[out.untyped_storage().data_ptr()] = out
            return out
        on_host = [tensor for tensor in given if not isinstance(tensor, DeviceTensor) and tensor.dim()]
        assert not on_host or func in _COPIES, f"{func} of tensors on the host and on the device"
        out = func(*_values(args), **_values(kwargs))
        to_host = target is not None or (func is torch.ops.aten.copy_.default and not isinstance(args[0], DeviceTensor))
        return out if to_host else _on_device(out, given)


def _index(index: Any) -> Any:
    """For the values. As torch on a GPU, it reads single numbers, finds the places of a mask, and moves what is on the
    host to the device."""
    if isinstance(index, tuple):
        return tuple(map(_index, index))
    if isinstance(index, slice):
        ends = (index.start, index.stop, index.step)
        return slice(*(end.item() if isinstance(end, torch.Tensor) else end for end in ends))
    if isinstance(index, list | np.ndarray):
        index = torch.tensor(index)
    if not isinstance(index, torch.Tensor):
        return index
    index = _moved(index)
    if index.dtype == torch.bool:
        index.nonzero()
    elif not index.dim():
        return index.item()
    return _values(index)


def _moved(value: Any) -> Any:
    return value.to(DEVICE) if isinstance(value, torch.Tensor) and value.dim() else value


def _values(tree: Any) -> Any:
    return tree_map_only(DeviceTensor, lambda tensor: tensor.values, tree)


def _on_device(tree: Any, given: Sequence[torch.Tensor]) -> Any:
    """Results of an operation; one that it was given and has written to is the same tensor."""
    known = {id(tensor.values): tensor for tensor in given if isinstance(tensor, DeviceTensor)}
    return tree_map_only(torch.Tensor, lambda out: known[id(out)] if id(out) in known else DeviceTensor(out), tree)


class Event:
    """What torch.cuda.Event is for a device that is never behind."""

    def record(self) -> None: ...

    def synchronize(self) -> None: ...


def _launched(kernel: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(kernel)
    def launch(*args: Any, **kwargs: Any) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, DeviceTensor)]
        out = kernel(*_values(args), **_values(kwargs))
        return _on_device(out, given) if given else out

    return launch


def install(patch: pytest.MonkeyPatch) -> None:
    """What engines of this process need for a PretendGpu."""
    patch.setenv("SEAMLESS_BACKEND", "torch")
    dispatch.reset()
    for name in KERNELS:
        impls = importlib.import_module(f"seamless_kernels.{name}").IMPLS
        patch.setitem(impls, "torch", _launched(impls["torch"]))
    patch.setattr(torch.cuda, "Event", Event)
    for name in ("tensor", "as_tensor"):  # their copy to the device would pass by a mode
        patch.setattr(torch, name, _by_way_of_the_host(getattr(torch, name)))
    patch.setattr(transfer, "is_gpu", lambda device: device == DEVICE)


def load(folder: Path, options: EngineConfig) -> Engine:
    """An engine on the pretended GPU; to be called, and its core to be stepped, within a PretendGpu."""
    config = ModelConfig.from_folder(folder)
    runner = ModelRunner(folder, config, options, TASKS, DEVICE, torch.float32)
    runner.completions = CompletionQueue(delay=1)
    return Engine(runner, Tokenizer.from_folder(folder, config), options, TASKS)


def _by_way_of_the_host(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(make)
    def wrapper(data: Any, *, device: Any = None, **kwargs: Any) -> torch.Tensor:
        made = make(data, device=None if device is None or torch.device(device) == DEVICE else device, **kwargs)
        return made if device is None else made.to(device)

    return wrapper
