"""`demo` and `benchmarks` as packages, without the root of the repository, where `kernels` is too, on the path."""

from __future__ import annotations

import sys
import types

from support.snippets import ROOT

for name in ("demo", "benchmarks"):
    package = types.ModuleType(name)
    package.__path__ = [str(ROOT / name)]
    sys.modules.setdefault(name, package)
