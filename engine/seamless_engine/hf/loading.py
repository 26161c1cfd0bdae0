"""Arguments of transformers' `from_pretrained`."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from seamless_engine.config import ModelConfig
from seamless_engine.errors import UsageError
from seamless_engine.loading.loader import find_checkpoint

_HUB = tuple(
    name for name, one in inspect.signature(find_checkpoint).parameters.items() if one.kind is one.KEYWORD_ONLY
)
# They change neither the model nor its results.
NO_EFFECT = tuple(
    "allow_all_kernels code_revision disable_mmap ignore_mismatched_sizes low_cpu_mem_usage offload_buffers "
    "offload_folder offload_state_dict resume_download tqdm_class trust_remote_code use_flash_attention_2 use_kernels "
    "weights_only".split()
)
_ATTENTION = ("sdpa", "eager", "flash_attention_2", "flash_attention_3")
_PLACEMENTS = ("balanced", "balanced_low_0", "sequential")  # over several devices; this engine uses one
_ONE_DEVICE = "a model runs on one device: choose it with device or device_map"
_SAFETENSORS = "only safetensors files are read, and no code in them is run"
_INT8 = 'for matrices in 8 bits give options=EngineConfig(int8=("text_decoder",))'
# Refused unless the value has no effect, with the advice of the message.
REFUSED = {
    "adapter_kwargs": "merge the adapter into the weights, and save them as a checkpoint",
    "attn_implementation": f"the engine has its own attention; {', '.join(_ATTENTION)} are accepted and mean the same",
    "device_mesh": _ONE_DEVICE,
    "distributed_config": _ONE_DEVICE,
    "from_flax": _SAFETENSORS,
    "from_tf": _SAFETENSORS,
    "fusion_config": "the engine has its own kernels: leave it out",
    "generation_config": "give it to generate()",
    "gguf_file": _SAFETENSORS,
    "kernel_config": "the engine has its own kernels: leave it out",
    "key_mapping": "save the tensors under the names that transformers gives them",
    "load_in_4bit": _INT8,
    "load_in_8bit": _INT8,
    "output_loading_info": "tensors that are missing or do not fit are errors here, so there is nothing to report",
    "proxies": "set HTTPS_PROXY in the environment",
    "quantization_config": _INT8,
    "state_dict": "save the tensors as a checkpoint, and give its folder",
    "tp_plan": _ONE_DEVICE,
    "tp_size": _ONE_DEVICE,
    "use_safetensors": _SAFETENSORS,
    "variant": "only model.safetensors, or the shards that its index names, are read; dtype chooses the precision",
}
# Values without effect: None, an empty mapping, and these; False for an argument that is not listed here.
_NEUTRAL: dict[str, tuple[Any, ...]] = {"attn_implementation": _ATTENTION, "use_safetensors": (True,), "variant": ("",)}
_OWN = ("config", "device", "device_map", "dtype", "max_memory", "options", "torch_dtype", "use_auth_token")
KNOWN = frozenset([*_HUB, *NO_EFFECT, *REFUSED, *_OWN])


def hub_arguments(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Of the arguments of `from_pretrained`, those for `find_checkpoint`.

    Raises UsageError that names an argument which is unknown or not supported.
    """
    for name, value in kwargs.items():
        _check(name, value)
    hub = {name: kwargs[name] for name in _HUB if kwargs.get(name) is not None}
    if kwargs.get("use_auth_token") is not None:
        hub.setdefault("token", kwargs["use_auth_token"])
    if kwargs.get("max_memory") is not None:
        warnings.warn(
            "max_memory has no effect, because a model is not split: EngineConfig has the sizes that bound memory",
            stacklevel=3,
        )
    return hub


def _check(name: str, value: Any) -> None:
    if name in REFUSED:
        neutral = isinstance(value, str | bool) and value in _NEUTRAL.get(name, (False,))
        if not (value is None or value == {} or neutral):
            shown = f"={value!r}" if isinstance(value, str | int) else ""
            raise UsageError(f"from_pretrained() does not support {name}{shown}: {REFUSED[name]}")
    elif name not in KNOWN:
        if name in {field.name for field in dataclasses.fields(ModelConfig)} | {"use_cache"}:
            raise UsageError(f"from_pretrained() cannot set {name}: a model is loaded as its config.json says")
        nearest = difflib.get_close_matches(name, sorted(KNOWN), n=1)
        hint = f": did you mean {nearest[0]!r}?" if nearest else ""
        raise UsageError(f"from_pretrained() has no argument {name!r}{hint}")


def device_of(device: Any, device_map: Any) -> str | torch.device:
    """The device of `device` or `device_map`; "auto" if neither is given. Raises UsageError for several devices."""
    if device is not None and device_map is not None:
        raise UsageError("give device or device_map, not both")
    wanted = device if device_map is None else device_map
    if isinstance(wanted, Mapping):
        if len(set(wanted.values())) != 1:
            raise UsageError('device_map must name one device: a model is not split. Use "auto", "cpu" or "cuda:0"')
        (wanted,) = set(wanted.values())
    if wanted is None or (isinstance(wanted, str) and wanted in _PLACEMENTS):
        return "auto"
    if isinstance(wanted, int):
        return torch.device("cuda", wanted) if wanted >= 0 else "cpu"
    return wanted


def dtype_of(dtype: Any, torch_dtype: Any, stored: Mapping[str, Any]) -> str | torch.dtype:
    """The dtype of the arguments. None and "auto" are that of config.json, `stored`."""
    if dtype is not None and torch_dtype is not None and dtype != torch_dtype:
        raise UsageError("dtype and torch_dtype are two names of one argument: give one of them")
    wanted = torch_dtype if dtype is None else dtype
    if wanted is None or (isinstance(wanted, str) and wanted == "auto"):
        wanted = stored.get("dtype") or stored.get("torch_dtype") or "float32"
    named = getattr(torch, wanted.removeprefix("torch."), None) if isinstance(wanted, str) else None
    return named if isinstance(named, torch.dtype) else wanted
