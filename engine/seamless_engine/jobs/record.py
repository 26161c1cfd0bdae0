"""run.json: what was asked, and what each run over the job has done."""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from seamless_engine.jobs.output import Output
from seamless_engine.jobs.progress import Counts

_PACKAGES = ("seamless-engine", "torch", "triton", "numpy", "soundfile", "soxr", "sentencepiece", "tokenizers")
_SUMMED = ("audio_seconds", "speech_seconds", "seconds")


class Record:
    """Runs that went before are kept; one that was killed has the state "running"."""

    def __init__(self, output: Output, counts: Counts, arguments: dict[str, Any], device: str) -> None:
        self._output = output
        self._counts = counts
        self._arguments = arguments
        self._earlier = read_record(output.record_path).get("runs", [])
        self._run = {"started": time.strftime("%FT%T%z"), "device": device, "versions": _versions()}

    def note(self, state: str) -> None:
        """Write it: `running`, `done`, `interrupted`, or why the run failed. Raises OutputError."""
        counts = dataclasses.asdict(self._counts) | {"rtfx": self._counts.rtfx}
        runs = [*self._earlier, {"state": state, **self._run, **counts}]
        facts = {"state": state, "results": self._output.results, "errors": self._output.errors, **sums(runs)}
        self._output.write_run(facts | {"arguments": self._arguments, "options": self._output.options, "runs": runs})


def read_record(path: Path) -> dict[str, Any]:
    """What is in a run.json; empty if there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def sums(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Seconds of all runs together, and the RTFx of them."""
    found = {name: sum(run.get(name, 0.0) for run in runs) for name in _SUMMED}
    return found | {"rtfx": found["audio_seconds"] / found["seconds"] if found["seconds"] else 0.0}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
