"""Packed data on the CPU, for tests of what runs there on any machine."""

from __future__ import annotations

from functools import partial

import torch

from support import packed

CPU = torch.device("cpu")
bounds = partial(packed.bounds, device=CPU)
normal = partial(packed.normal, device=CPU)
