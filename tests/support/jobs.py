"""Batch jobs in processes of their own, which a signal may strike at a chosen moment, and what a job leaves behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from seamless_engine import cli

PATIENCE = 300.0  # seconds until a process counts as stuck
VARYING = ("timings", "crc32")
_PARTS = (0, 1, 7, 40)  # bytes of the line that is being written when the signal comes; 0 is none

# Children of one process that has imported everything and computed nothing: torch's threads do not survive a fork.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["seamless_engine.cli", "seamless_engine.engine", "seamless_engine.jobs.output"])


def run_in_child(
    arguments: Sequence[str],
    log: Path,
    *,
    at_call: int | None = None,
    after: float | None = None,
    signals: Sequence[int] = (signal.SIGKILL,),
    file_limit: int | None = None,
) -> int:
    """The exit code of a command in a process of its own, negative for the signal that ended it. stderr goes to `log`.

    at_call: the process gets the signals when it writes, syncs or renames for this time, in the middle of a write.
    after: seconds until it gets them. file_limit: bytes that a file may have.
    """
    child = _context.Process(target=_child, args=(list(arguments), str(log), at_call, after, signals, file_limit))
    child.start()
    child.join(PATIENCE)
    if child.exitcode is None:
        child.kill()
        raise AssertionError(f"the command hangs: {log.read_text()}")
    return child.exitcode


def _child(
    arguments: list[str],
    log: str,
    at_call: int | None,
    after: float | None,
    signals: Sequence[int],
    file_limit: int | None,
) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = ["seamless-engine", *arguments]
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

    def strike() -> None:
        for number in signals:
            os.kill(os.getpid(), number)

    if at_call is not None:
        _count(at_call, strike)
    if after is not None:
        timer = threading.Timer(after, strike)
        timer.daemon = True
        timer.start()
    sys.exit(cli.main())


def _count(at: int, strike: Callable[[], None]) -> None:
    calls = 0

    def counted(name: str) -> Callable[..., Any]:
        call = getattr(os, name)

        def counting(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at:
                if name == "write":
                    call(args[0], args[1][: _PARTS[at % len(_PARTS)]])
                    os.lseek(args[0], 0, os.SEEK_END)
                strike()
            return call(*args)

        return counting

    for name in ("write", "replace", "fsync"):
        setattr(os, name, counted(name))


def write_lines(path: Path, lines: Sequence[Any]) -> str:
    """A manifest; strings and bytes are lines as they are, other values become JSON."""
    encoded = [
        line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
        for line in lines
    ]
    path.write_bytes(b"".join(line + b"\n" for line in encoded))
    return str(path)


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_bytes().splitlines()]


def outcome(folder: Path) -> tuple[list[str], list[str], dict[str, bytes]]:
    """Results and errors, sorted and without what varies from run to run, and the bytes of the speech."""
    found = []
    for name in ("results.jsonl", "errors.jsonl"):
        found.append(
            sorted(
                json.dumps({key: value for key, value in line.items() if key not in VARYING})
                for line in read(folder, name)
            )
        )
    speech = {path.name: path.read_bytes() for path in sorted((folder / "audio").iterdir())}
    return found[0], found[1], speech
