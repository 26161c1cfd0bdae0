"""A model runner for a checkpoint folder, loaded once."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from seamless_engine.config import EngineConfig, ModelConfig
from seamless_engine.model_runner import ModelRunner
from seamless_engine.request import TASKS


@functools.cache
def parts(folder: Path) -> ModelRunner:
    """float32 on the CPU, all modules, small pools."""
    options = EngineConfig(max_num_seqs=8, num_slots=512)
    return ModelRunner(folder, ModelConfig.from_folder(folder), options, TASKS, torch.device("cpu"), torch.float32)
