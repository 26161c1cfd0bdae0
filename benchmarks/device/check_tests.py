"""Tests on the device, in several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.device.parts import ROOT, Context
from benchmarks.kernels.runner import OUR_TESTS

KERNELS = ("tests/ops", "tests/test_cuda_graphs.py", "tests/test_pass_graphs.py")
SYNCHRONISATION = "tests/test_synchronisation.py"
_QUICK = ("tests/ops/test_kv_cache.py",)
_PROCESSES = 8


def kernels(context: Context) -> str:
    """The tests of operations and graphs that run our kernels."""
    return _run(context, _QUICK if context.quick else KERNELS, OUR_TESTS["cuda"])


def synchronisation(context: Context) -> str:
    """That the host does not wait for the device where it need not."""
    return _run(context, (SYNCHRONISATION,), "step" if context.quick else "")


def _run(context: Context, files: Sequence[str], chosen: str) -> str:
    """Raises AssertionError with the number of tests that failed; their names are in the results."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", "-k", chosen]
    command += ["-n", str(min(_PROCESSES, os.cpu_count() or 1)), *files]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout)
    lines = done.stdout.splitlines()
    failed = [line.split(" ")[1] for line in lines if line.startswith(("FAILED ", "ERROR "))]
    context.save(failed=failed)
    said = next((line.strip("= ") for line in reversed(lines) if " in " in line), "no tests ran")
    assert not done.returncode, said
    return said
