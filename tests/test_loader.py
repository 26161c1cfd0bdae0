"""Loading: every spelling of a good checkpoint gives the same weights, every damage is an error that names it."""

from __future__ import annotations

from pathlib import Path

import torch

from seamless_engine.config import ModelConfig
from seamless_engine.loader import Checkpoint, modules_for
from seamless_engine.request import TASKS

ALL = modules_for(TASKS)


def tensors(folder: Path, modules: tuple[str, ...] = ALL) -> dict[str, torch.Tensor]:
    checkpoint = Checkpoint.open(folder, ModelConfig.from_folder(folder), modules)
    weights = checkpoint.weights(torch.device("cpu"), torch.float32)
    return {name: weights.tensor(name) for name in checkpoint.sources}


def open_all(folder: Path) -> Checkpoint:
    return Checkpoint.open(folder, ModelConfig.from_folder(folder), ALL)
