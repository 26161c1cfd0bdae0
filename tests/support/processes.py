"""The processes that decode audio, as the system lists them."""

from __future__ import annotations

import os
import select
from pathlib import Path

from support.callers import PATIENCE


def workers(parent: int) -> set[int]:
    """The processes that decode, of a process."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent and b"decode_worker" in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
        except OSError:
            pass  # it has ended
    return found


def wait_for_end(process: int) -> None:
    try:
        file = os.pidfd_open(process)
    except ProcessLookupError:
        return
    try:
        assert select.select([file], [], [], PATIENCE)[0]
    finally:
        os.close(file)
