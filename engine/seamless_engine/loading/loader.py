"""Checkpoint files → tensors. Names and shapes are compared with the configuration before a tensor is read."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from seamless_engine.config import ModelConfig
from seamless_engine.errors import CheckpointError
from seamless_engine.inputs.vocabulary import MODEL_FILE
from seamless_engine.loading.tensor_table import MODULES, SHARED_NAMES, UNIT_NAMES, tensor_shapes, vocoder_convolutions
from seamless_engine.models.layers import Weights
from seamless_engine.request import SPEECH_IN, SPEECH_OUT, Task
from seamless_kernels.linear import LinearWeight, pack_weight, pack_weight_int8

_MAX_HEADER_BYTES = 16 << 20  # the header of v2-large has 300 KB; a hostile one would take seconds to parse
_SMALL_HUB_FILES = ("*.json", MODEL_FILE)
# Tables that some versions of transformers stored; they are computed here.
_DERIVED = ("embed_positions.weights", "embed_char_positions.weights")


def modules_for(tasks: Collection[Task]) -> tuple[str, ...]:
    """The modules that these tasks use, in the order of MODULES."""
    wanted = {"shared", "text_decoder"}
    if any(task in SPEECH_IN for task in tasks):
        wanted.add("speech_encoder")
    if any(task not in SPEECH_IN for task in tasks):
        wanted.add("text_encoder")
    if any(task in SPEECH_OUT for task in tasks):
        wanted |= {"t2u_model", "vocoder"}
    return tuple(module for module in MODULES if module in wanted)


def find_checkpoint(
    path: str | os.PathLike[str],
    weights: bool = True,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    subfolder: str = "",
) -> Path:
    """The folder of a checkpoint: a local folder itself, or that of a hub id ("owner/name") in the hub cache, after a
    download if necessary.

    weights: whether to download the weights as well.
    subfolder: the place of the files within the folder or the model. The other arguments are those of
        `huggingface_hub.snapshot_download` and have no effect on a local folder.

    Raises CheckpointError.
    """
    folder, name = Path(path), os.fspath(path)
    if not folder.is_dir():
        if folder.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
            raise CheckpointError(
                f"{name} is not a folder: give a checkpoint folder in the transformers format or a hub id"
            )
        prefix = f"{subfolder.strip('/')}/" if subfolder else ""
        folder = _from_hub(
            name,
            allow_patterns=[
                prefix + pattern for pattern in (*_SMALL_HUB_FILES, *(["*.safetensors"] if weights else []))
            ],
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
        )
    if not (folder / subfolder).is_dir():
        raise CheckpointError(f"{name} has no folder {subfolder}: check the argument subfolder")
    return folder / subfolder


def _from_hub(name: str, **options: Any) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        return Path(snapshot_download(name, **options))
    except Exception as error:  # the HTTP client and hf_xet have exceptions of their own, which vary by version
        absent = isinstance(error, HfHubHTTPError | LocalEntryNotFoundError | HFValidationError | OfflineModeIsEnabled)
        if not absent:
            reason = str(error) or type(error).__name__
            raise CheckpointError(
                f"{name} could not be fetched into the hub cache (HF_HOME, or cache_dir): {reason}"
            ) from error
        revision = f" at revision {options['revision']}" if options["revision"] else ""
        raise CheckpointError(
            f"{name} is neither a local folder nor a model that the hub could deliver{revision} "
            f"({type(error).__name__}): check the path; a private or gated model needs token=...; offline, only models "
            "in the hub cache (HF_HOME, or cache_dir) are found"
        ) from error


@dataclass
class Checkpoint:
    """The tensors of some modules in a folder, checked and ready to be read one by one.

    bytes_read: bytes on the device, by module, of the tensors that `weights` has read.
    not_finite: names of the tensors with NaN or infinity, of those that `weights` has read with `check`.
    """

    folder: Path
    sources: dict[str, _Source]
    bytes_read: dict[str, int] = field(default_factory=dict)
    not_finite: list[str] = field(default_factory=list)
    _files: dict[Path, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, config: ModelConfig, modules: Iterable[str]) -> Checkpoint:
        """Raises CheckpointError that names every missing, unexpected or wrongly shaped tensor."""
        return cls(folder, _match(folder, _headers(folder), config, tuple(modules)))

    def weights(
        self, device: torch.device, dtype: torch.dtype, check: bool = False, int8: Collection[str] = ()
    ) -> Weights:
        """The weights, which are read when a network asks for them.

        check: record tensors that are not finite in `dtype`, whose range may be narrower than that of the file.
        int8: modules whose matrices are quantised.
        """

        def read(name: str, override: torch.dtype | None) -> torch.Tensor:
            tensor = self.sources[name].read(self._file).to(device=device, dtype=override or dtype, copy=True)
            module = name.split(".")[0]
            self.bytes_read[module] = self.bytes_read.get(module, 0) + tensor.nbytes
            if check and not tensor.isfinite().all():
                self.not_finite.append(name)
            return tensor

        def pack(prefix: str, weight: torch.Tensor, kept: bool) -> LinearWeight:
            module = prefix.split(".")[0]
            if module not in int8:
                return pack_weight(weight)
            packed = pack_weight_int8(weight)
            gone = 0 if kept else weight.numel() * dtype.itemsize
            self.bytes_read[module] = self.bytes_read.get(module, 0) + packed.nbytes - gone
            return packed

        return Weights(read, pack)

    def require_finite(self) -> None:
        """Raises CheckpointError that names the tensors of `not_finite`. Call it after all weights were read."""
        if self.not_finite:
            raise CheckpointError(
                f"{self.folder} has NaN or infinite values in {_listed(self.not_finite)}. Fetch the checkpoint again, "
                "or load it in float32 if its numbers are only too large for a narrower dtype"
            )

    def _file(self, path: Path) -> Any:
        if path not in self._files:
            self._files[path] = safe_open(path, framework="pt")
        return self._files[path]


@dataclass(frozen=True)
class _Stored:
    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class _Source:
    """The stored form of a tensor: its value, or under weight norm its direction v and magnitude g, for g · v / ‖v‖."""

    value: _Stored
    magnitude: _Stored | None = None

    def read(self, open_file: Any) -> torch.Tensor:
        value = open_file(self.value.path).get_tensor(self.value.name)
        if self.magnitude is None:
            return value
        direction, magnitude = value.float(), open_file(self.magnitude.path).get_tensor(self.magnitude.name).float()
        return direction * (magnitude / torch.linalg.vector_norm(direction, dim=(1, 2), keepdim=True))


def _headers(folder: Path) -> dict[str, _Stored]:
    stored: dict[str, _Stored] = {}
    for path in _weight_files(folder):
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
            if length > _MAX_HEADER_BYTES:
                raise CheckpointError(f"{path}: a header of {length} bytes is not a checkpoint's")
            with safe_open(path, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 (not a mapping)
                    if name in stored:
                        raise CheckpointError(f"{path}: {name} is also in {stored[name].path.name}")
                    part = opened.get_slice(name)
                    stored[name] = _Stored(path, name, tuple(part.get_shape()), part.get_dtype())
        except (SafetensorError, struct.error, OSError) as error:
            raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from None
    return stored


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        single = folder / "model.safetensors"
        if single.exists():
            return [single]
        found = [path.name for path in folder.glob("*.bin")] + [path.name for path in folder.glob("*.pt")]
        hint = (
            f" ({', '.join(sorted(found))}: pickled weights are not read, convert them to safetensors)" if found else ""
        )
        raise CheckpointError(f"{folder} has neither model.safetensors nor model.safetensors.index.json{hint}")
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError, OSError) as error:
        raise CheckpointError(f"{index} has no readable weight_map: {error}") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(f"{index}: {name!r} is not a plain file name")
        if not (folder / name).is_file():
            raise CheckpointError(f"{index} names {name}, which is not in {folder}")
    return [folder / name for name in sorted(names)]


def _match(
    folder: Path, stored: dict[str, _Stored], config: ModelConfig, modules: tuple[str, ...]
) -> dict[str, _Source]:
    sources: dict[str, _Source] = {}
    problems: list[str] = []
    convolutions = set(vocoder_convolutions(config))
    accounted: set[str] = set()
    for name, shape in tensor_shapes(config).items():
        spellings = _spellings(name, convolutions)
        found = [names for names in spellings if all(part in stored for part in names)]
        accounted.update(part for names in found for part in names)
        if name.split(".")[0] not in modules:
            continue
        if not found:
            problems.append(f"{name} is missing")
            continue
        value, *magnitude = (stored[part] for part in found[0])
        expected = [shape] + [(shape[0], 1, 1)] * len(magnitude)
        for part, want in zip((value, *magnitude), expected, strict=True):
            if part.shape != want:
                problems.append(f"{part.name} has shape {list(part.shape)}, the config asks for {list(want)}")
            if part.dtype not in ("F64", "F32", "F16", "BF16"):
                problems.append(f"{part.name} has dtype {part.dtype}, not a float")
        sources[name] = _Source(value, *magnitude)
    unexpected = [name for name in stored if name not in accounted and not name.endswith(_DERIVED)]
    problems += [f"{name} is unexpected" for name in sorted(unexpected)]
    if problems:
        missing = {name.split(".")[0] for name in tensor_shapes(config, modules) if name not in sources}
        hint = f" (for a checkpoint without {', '.join(sorted(missing))}, name the tasks to load)" if missing else ""
        raise CheckpointError(f"{folder} does not fit its config.json: {_listed(problems)}{hint}")
    return sources


def _listed(problems: list[str]) -> str:
    return "; ".join(problems[:20]) + (f"; and {len(problems) - 20} more" if len(problems) > 20 else "")


def _spellings(name: str, convolutions: set[str]) -> list[tuple[str, ...]]:
    """The names under which a tensor may be stored: (value,), or (direction, magnitude) under weight norm."""
    for tied in (SHARED_NAMES, UNIT_NAMES):
        if name == tied[0]:
            return [(other,) for other in tied]
    prefix = name.removesuffix(".weight")
    if prefix not in convolutions:
        return [(name,)]
    parametrized = f"{prefix}.parametrizations.weight.original"
    return [(name,), (f"{prefix}.weight_v", f"{prefix}.weight_g"), (f"{parametrized}1", f"{parametrized}0")]
