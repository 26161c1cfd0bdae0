"""generation_config.json under transformers' class name."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from seamless_engine.hf.arguments import KNOWN


class GenerationConfig(SimpleNamespace):
    """The fields of the file as attributes; an argument of `generate` that the file leaves out is None.

    Fields that are set become defaults of `generate`.
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
