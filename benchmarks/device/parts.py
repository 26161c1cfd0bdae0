"""Parts of a run: each in a process of its own, with a time limit of its own. One that fails costs no other its result.

A part is a function of another module, which its process imports: what cannot be imported fails the part, not the run.
Nothing here imports torch.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "passive"}
_SAID = 100  # letters of a part's last words in the table
_KEPT = 6000  # letters of the output of a part that failed, in the JSON file


@dataclass(frozen=True)
class Context:
    """What a part is given. scratch: a folder of the run, for what a part leaves to others. file: of its results."""

    device: str
    quick: bool
    scratch: str
    file: str
    results: dict[str, Any] = field(default_factory=dict)

    def save(self, **results: Any) -> None:
        """Keep these results, whatever happens to the part from now on."""
        self.results.update(results)
        part = Path(f"{self.file}.part")
        part.write_text(json.dumps(self.results), encoding="utf-8")
        part.replace(self.file)


@dataclass(frozen=True)
class Part:
    """seconds: its limit. call: "module:function", called with the context and `options`; it returns in some words what
    it found, and raises an exception if something is wrong. needs: parts that have to succeed before.
    """

    name: str
    seconds: float
    call: str
    options: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


class Runner:
    """Runs parts, `together` at a time, until `seconds` have passed. target: the JSON file."""

    def __init__(self, context: Context, target: Path, seconds: float, together: int) -> None:
        self.context, self.target, self.together = context, target, together
        self._end = time.monotonic() + seconds
        self._running: set[subprocess.Popen[Any]] = set()
        self._stopped = threading.Event()

    def run(self, parts: Sequence[Part]) -> list[dict[str, Any]]:
        """A record of each part. The file has them as they come; the output of a part is printed when it ends.

        compiled: entries that Triton's cache got meanwhile.
        """
        futures: dict[str, Future[dict[str, Any]]] = {}
        records: dict[str, dict[str, Any]] = {}
        with ThreadPoolExecutor(self.together) as pool:
            try:
                for part in parts:  # a part that another one needs stands before it, so it is started before
                    before = [futures[name] for name in part.needs if name in futures]
                    futures[part.name] = pool.submit(self._record, part, before)
                for future in as_completed(futures.values()):
                    record = future.result()
                    records[record["part"]] = record
                    self._write([records[part.name] for part in parts if part.name in records])
            finally:
                self._stop()
        return [records[part.name] for part in parts]

    def _record(self, part: Part, before: list[Future[dict[str, Any]]]) -> dict[str, Any]:
        failed = [record["part"] for record in (future.result() for future in before) if record["status"] != "ok"]
        start = time.monotonic()
        seconds = min(part.seconds, self._end - start)
        if failed or seconds <= 0 or self._stopped.is_set():
            said = f"{', '.join(failed)} did not succeed" if failed else "no time was left"
            return {"part": part.name, "status": "not run", "seconds": 0.0, "said": said}
        file, log = (Path(self.context.scratch, f"{part.name}.{suffix}") for suffix in ("json", "log"))
        context = json.dumps(asdict(self.context) | {"file": str(file), "results": {}})
        command = [sys.executable, "-m", "benchmarks.device.parts", part.call, json.dumps(part.options), context]
        before_kernels = _compiled_kernels()
        with open(log, "wb") as output:
            status = self._status(subprocess.Popen(command, **self._options(output)), seconds)
        record: dict[str, Any] = {"part": part.name, "status": status, "seconds": round(time.monotonic() - start, 1)}
        record["compiled"] = _compiled_kernels() - before_kernels
        results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        text = log.read_text(encoding="utf-8", errors="replace")
        said = results.pop("said", None) or next((line for line in reversed(text.splitlines()) if line.strip()), "")
        record |= {"said": said[:_SAID]} | ({} if status == "ok" else {"output": text[-_KEPT:]}) | results
        print(f"\n== {part.name}: {status}, {record['seconds']} s: {said}\n{text}", flush=True)
        return record

    def _options(self, output: Any) -> dict[str, Any]:
        paths = [str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = _ENVIRONMENT | os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        if self.context.device == "cuda":
            environment.pop("TRITON_INTERPRET", None)
        # A group, so that its children end with it; no session: what runs this may end all of one session.
        return {"cwd": ROOT, "env": environment, "stdout": output, "stderr": output, "process_group": 0}

    def _status(self, process: subprocess.Popen[Any], seconds: float) -> str:
        self._running.add(process)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"stopped after {seconds:.0f} s"
        finally:
            _kill(process)
            self._running.discard(process)
        if code < 0:
            return f"died of {signal.Signals(-code).name}"
        return "failed" if code else "ok"

    def _stop(self) -> None:
        self._stopped.set()
        for process in list(self._running):
            _kill(process)

    def _write(self, records: list[dict[str, Any]]) -> None:
        """A part may have the machine among its results; it comes first in the file."""
        machine = next((record["machine"] for record in records if "machine" in record), None)
        parts = [{name: value for name, value in record.items() if name != "machine"} for record in records]
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.target.write_text(json.dumps({"machine": machine, "parts": parts}, indent=1) + "\n", encoding="utf-8")


def _compiled_kernels() -> int:
    """How many are in Triton's cache, so that it shows whether a prepared one had them."""
    cache = Path(os.environ.get("TRITON_CACHE_DIR", Path.home() / ".triton" / "cache"))
    return len(list(cache.iterdir())) if cache.is_dir() else 0


def _kill(process: subprocess.Popen[Any]) -> None:
    """End a process, if it still runs, and all that it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def chosen(parts: Sequence[Part], only: Sequence[str]) -> list[Part]:
    """These parts and those that they need, in their order; all, if `only` is empty."""
    wanted = set(only)
    for part in reversed(parts):
        if part.name in wanted:
            wanted |= set(part.needs)
    return [part for part in parts if not only or part.name in wanted]


def main(call: str, options: str, context: str) -> None:
    """Runs one part in this process."""
    given = Context(**json.loads(context))
    module, _, name = call.partition(":")
    said = getattr(importlib.import_module(module), name)(given, **json.loads(options))
    given.save(said=said)


if __name__ == "__main__":
    main(*sys.argv[1:])
