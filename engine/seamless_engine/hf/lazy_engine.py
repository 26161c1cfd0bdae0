"""The engine of a drop-in model, which follows `.to(...)`."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import torch

from seamless_engine.config import ModelConfig
from seamless_engine.device import resolve_device, resolve_dtype
from seamless_engine.engine import Engine
from seamless_engine.hf.stored_weight import StoredWeight, stored_weights
from seamless_engine.loading.loader import modules_for


class LazyEngine:
    """Weights are packed for one dtype and one device. After a move the checkpoint is read again, at the next use.

    So no precision is lost on the way: `.half().float()` has the numbers of the file.
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
        """None leaves as it is. Raises UsageError if the engine does not run there."""
        where = self.device if device is None else resolve_device(device)
        precision = self.dtype if dtype is None else resolve_dtype(dtype, where)
        with self._lock:
            if (where, precision) != (self.device, self.dtype):
                self.device, self.dtype, self._engine = where, precision, None
                gc.collect()  # an engine is part of cycles, and a move may be meant to make room
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()

    def weights(self) -> dict[str, StoredWeight]:
        return stored_weights(self.folder, self.config, self.modules, self.device, self.dtype)
