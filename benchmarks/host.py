"""What is to be known of the machine without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path


def commit() -> str:
    """The commit of the working tree, with a + if files differ from it; where git does not know, the one that
    `python -m benchmarks.device prepare` ran on."""
    command = ["git", "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+"]
    if shutil.which("git") and not (found := subprocess.run(command, capture_output=True, text=True)).returncode:
        return found.stdout.strip()
    prepared = Path(".device/prepared.json")
    return json.loads(prepared.read_text(encoding="utf-8"))["commit"] if prepared.exists() else "unknown"


def scratch_folder() -> str | None:
    """Where temporary files of 5 GB go: into memory where it can be had as a folder, else where they always go."""
    memory = "/dev/shm"
    return memory if Path(memory).is_dir() and shutil.disk_usage(memory).free > 10 << 30 else None
