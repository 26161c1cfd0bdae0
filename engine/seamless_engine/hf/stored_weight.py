"""Weights of a loaded model as tensors, whose numbers are read from the checkpoint when they are used."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from seamless_engine.config import ModelConfig
from seamless_engine.errors import UsageError
from seamless_engine.loading.loader import Checkpoint
from seamless_engine.loading.tensor_table import SHARED_NAMES, UNIT_NAMES, tensor_shapes

# These work without the numbers.
_METHODS = frozenset(
    "numel nelement element_size size dim ndimension is_floating_point is_complex stride is_contiguous get_device "
    "requires_grad_ __len__".split()
)
_PROPERTIES = frozenset(
    "device dtype shape ndim nbytes itemsize layout requires_grad grad grad_fn is_leaf is_cuda is_cpu is_meta "
    "is_sparse is_quantized is_nested names".split()
)
_ASSIGNMENTS = frozenset(
    "__setitem__ __iadd__ __isub__ __imul__ __itruediv__ __ifloordiv__ __imod__ __ipow__ __iand__ __ior__ __ixor__ "
    "__ilshift__ __irshift__".split()
)
_MEMORY = frozenset("data_ptr storage untyped_storage".split())


class StoredWeight(torch.Tensor):
    """A read-only tensor. Shape, dtype and device are known at once; every computation reads the file."""

    _read: Callable[[], torch.Tensor]

    @staticmethod
    def __new__(
        cls, read: Callable[[], torch.Tensor], shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> StoredWeight:
        weight = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=device)  # pyright: ignore
        weight._read = read
        weight._is_param = True  # for isinstance(…, torch.nn.Parameter)
        return weight

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.__name__
        owner = getattr(getattr(func, "__self__", None), "__name__", "")  # of a property
        if (name == "__get__" and owner == "data") or name in ("detach", "detach_"):
            return args[0]
        if name in _METHODS or (name == "__get__" and owner in _PROPERTIES):
            if name != "requires_grad_" or (*args[1:], *kwargs.values()) == (False,):
                with torch._C.DisableTorchFunctionSubclass():
                    return func(*args, **kwargs)
        if any(isinstance(value, StoredWeight) for value in _written(name, args, kwargs)):
            if not (name == "__set__" and owner == "requires_grad" and args[1] is False):
                raise UsageError("weights are read-only: change the checkpoint, and load it again")
        if name in _MEMORY:
            raise UsageError(f"{name} has no meaning for a weight that is still in its file: clone() it first")
        args, kwargs = tree_map_only(StoredWeight, lambda weight: weight._read(), (args, kwargs))
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map_only(StoredWeight, lambda weight: weight._read(), (args, kwargs or {}))
        return func(*args, **kwargs)


def _written(name: str, args: Any, kwargs: dict[str, Any]) -> Iterable[Any]:
    """The arguments that a function writes to: `out`, or the first argument of an in-place function."""
    out = kwargs.get("out")
    if out is not None:
        return out if isinstance(out, tuple | list) else (out,)
    in_place = name.endswith("_") and not name.endswith("__")
    if in_place or name in _ASSIGNMENTS or name in ("__set__", "__delete__"):
        return *args[:1], kwargs.get("tensor"), kwargs.get("input")
    return ()


def stored_weights(
    folder: Path, config: ModelConfig, modules: Iterable[str], device: torch.device, dtype: torch.dtype
) -> dict[str, StoredWeight]:
    """The weights by transformers' names, tied weights once. Raises CheckpointError if the folder has changed."""
    modules = tuple(modules)
    weights = Checkpoint.open(folder, config, modules).weights(device, dtype)
    return {
        name: StoredWeight(partial(weights.read, name, None), shape, dtype, device)
        for name, shape in tensor_shapes(config, modules).items()
    }


def tied_names(modules: Iterable[str]) -> dict[str, str]:
    """Further names of tied weights in transformers' state_dict → the names that `stored_weights` uses."""
    loaded = {*modules, "lm_head"}
    return {
        other: names[0] for names in (SHARED_NAMES, UNIT_NAMES) for other in names[1:] if other.split(".")[0] in loaded
    }
