"""Arguments of transformers' `from_pretrained` and `to`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from seamless_engine.errors import UsageError
from seamless_engine.hf.config import SeamlessM4Tv2Config

_NO_EFFECT = {"low_cpu_mem_usage": (True, False), "use_safetensors": (True,), "weights_only": (True, False)}
_NEUTRAL = {"revision": "main", "subfolder": ""}


def check_load_arguments(kwargs: Mapping[str, Any], attn_implementation: str | None) -> None:
    """Raises UsageError that names an argument of `from_pretrained` which would be ignored."""
    if attn_implementation not in (None, "sdpa", "eager"):
        raise UsageError(f"attn_implementation={attn_implementation!r}: the engine has its own; leave the argument out")
    for name, value in kwargs.items():
        if value is None or value is False or value in _NO_EFFECT.get(name, ()) or value == _NEUTRAL.get(name):
            continue
        raise UsageError(
            f"from_pretrained() does not support {name}={value!r}. To choose a revision, a cache or a token, use "
            "huggingface_hub.snapshot_download, and give the folder it returns"
        )


def device_of(device: Any, device_map: Any) -> str | torch.device:
    """What `device` or `device_map` says, "auto" if neither does. Only one device can be meant."""
    if device is not None and device_map is not None:
        raise UsageError("give device or device_map, not both")
    wanted = device if device_map is None else device_map
    if isinstance(wanted, Mapping):
        if list(wanted) != [""]:
            raise UsageError('device_map must name one device: a model is not split. Use "auto", "cpu" or "cuda:0"')
        wanted = wanted[""]
    if wanted is None:
        return "auto"
    if isinstance(wanted, int):
        return torch.device("cuda", wanted) if wanted >= 0 else "cpu"
    return wanted


def dtype_of(dtype: Any, torch_dtype: Any, config: SeamlessM4Tv2Config) -> str | torch.dtype:
    """What the arguments say; the checkpoint's own for None and "auto"."""
    if dtype is not None and torch_dtype is not None and dtype != torch_dtype:
        raise UsageError("dtype and torch_dtype are two names of one argument: give one of them")
    wanted = torch_dtype if dtype is None else dtype
    if wanted not in (None, "auto"):
        return wanted
    stored = config.to_dict()
    return stored.get("dtype") or stored.get("torch_dtype") or "float32"
