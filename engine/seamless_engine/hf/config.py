"""config.json and generation_config.json of a checkpoint, under transformers' class names."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from seamless_engine.config import ModelConfig
from seamless_engine.errors import UsageError
from seamless_engine.hf.arguments import KNOWN
from seamless_engine.hf.loading import hub_arguments
from seamless_engine.loading.loader import find_checkpoint

_JSON_TYPES = (bool, int, float, str, tuple)  # the other fields of ModelConfig come from generation_config.json


class SeamlessM4Tv2Config:
    """The fields of config.json as attributes; a field that the file leaves out has the value of v2-large.

    Read-only, because a change would not reach a loaded model.
    """

    model_type = "seamless_m4t_v2"
    is_encoder_decoder = True

    def __init__(self, **fields: Any) -> None:
        defaults = {spec.name: spec.default for spec in dataclasses.fields(ModelConfig)}
        known = {name: value for name, value in defaults.items() if isinstance(value, _JSON_TYPES)}
        self.__dict__.update(known | fields)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> SeamlessM4Tv2Config:
        """Read the configuration of a checkpoint.

        pretrained_model_name_or_path: a folder or a hub id.
        kwargs: revision, token, cache_dir and so on, as for a model.

        Raises CheckpointError for a checkpoint that cannot be used, UsageError for an argument that is not supported.
        """
        folder = find_checkpoint(pretrained_model_name_or_path, weights=False, **hub_arguments(kwargs))
        ModelConfig.from_folder(folder)  # for its checks
        return cls(**json.loads((folder / "config.json").read_text(encoding="utf-8")))

    @property
    def num_hidden_layers(self) -> int:
        return self.__dict__["decoder_layers"]

    @property
    def num_attention_heads(self) -> int:
        return self.__dict__["decoder_attention_heads"]

    def require_same(self, other: Any) -> None:
        """Raises UsageError if `other`, a configuration of transformers or of this class, describes another model."""
        if not hasattr(other, "to_dict"):
            raise UsageError(f"config must be a configuration, not {other!r}: leave it out, config.json is read")
        given = other.to_dict()
        for name in (spec.name for spec in dataclasses.fields(ModelConfig)):
            own = self.__dict__.get(name)
            if name in given and json.dumps(given[name]) != json.dumps(own):
                raise UsageError(
                    f"config has {name}={given[name]!r}, and config.json {own!r}: leave config out, because a model is "
                    "loaded as its config.json says"
                )

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Raises UsageError."""
        raise UsageError("a configuration is not saved: copy config.json of the folder that it came from")

    def to_dict(self) -> dict[str, Any]:
        return {"model_type": self.model_type, "is_encoder_decoder": self.is_encoder_decoder} | self.__dict__

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"config.json has no field {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        raise UsageError(f"{name} cannot be set: a loaded model does not follow; change config.json, and load again")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SeamlessM4Tv2Config) and self.to_dict() == other.to_dict()

    def __repr__(self) -> str:
        return f"SeamlessM4Tv2Config {json.dumps(self.to_dict(), indent=2)}"


class GenerationConfig(SimpleNamespace):
    """The fields of generation_config.json as attributes; an argument of `generate` that the file leaves out is None.

    A field that is set becomes the default of that argument.
    """

    @classmethod
    def from_folder(cls, folder: Path) -> GenerationConfig:
        return cls(**json.loads((folder / "generation_config.json").read_text(encoding="utf-8")))

    def to_dict(self) -> dict[str, Any]:
        return copy.deepcopy(vars(self))

    def update(self, **fields: Any) -> None:
        vars(self).update(fields)

    def __getattr__(self, name: str) -> Any:
        if name in KNOWN:
            return None
        raise AttributeError(f"generation_config.json has no field {name!r}")
