"""`demo`, `benchmarks` and `tools` as packages; the repository root, which has a `kernels/`, stays off the path."""

from __future__ import annotations

import sys
import types

from support.snippets import ROOT

for name in ("demo", "benchmarks", "tools"):
    package = types.ModuleType(name)
    package.__path__ = [str(ROOT / name)]
    sys.modules.setdefault(name, package)
