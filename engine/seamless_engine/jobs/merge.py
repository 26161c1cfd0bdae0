"""`merge`: the results of shards, or of several folders, as one."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seamless_engine.errors import UsageError
from seamless_engine.jobs.lines import Stamp, recover, seal
from seamless_engine.jobs.output import lock, make_folder

_FILES = re.compile(r"(results|errors)((?:-\d+-of-\d+)?)\.jsonl")
_SUMS = "entries done changed results errors audio_seconds speech_seconds tokens load_seconds seconds".split()


@dataclass
class _Kept:
    """What the lines that are kept are about. items: key → item."""

    options: str | None = None
    items: dict[int, int] = field(default_factory=dict)


def merge(folders: Sequence[str], output_dir: str | None) -> dict[str, int]:
    """Join what is in the folders. Returns the numbers of results, errors and repeated lines.

    Of an item that was answered twice the first line is kept; an error counts only where there is no result. Paths of
    speech become relative to the output folder. Raises UsageError for results of different options or entries, and
    while a run writes to one of the folders.
    """
    target = Path(output_dir or folders[0])
    make_folder(target)
    with contextlib.ExitStack() as locks:
        sources = _sources([target, *map(Path, folders)] if output_dir is None else [Path(one) for one in folders])
        if not sources["results"] and not sources["errors"]:
            raise UsageError(f"no results.jsonl or results-k-of-n.jsonl in {', '.join(map(str, folders))}")
        names = {(path.parent, suffix) for found in sources.values() for path, suffix in found} | {(target, "")}
        for folder, suffix in sorted(names):
            locks.callback(os.close, lock(folder, suffix))
        kept = _Kept()
        results, repeated = _write(target / "results.jsonl", _lines(sources["results"]), target, kept)
        errors, _ = _write(target / "errors.jsonl", _lines(sources["errors"]), target, kept, skip_known=True)
        _write_run(target, sources)
    return {"results": results, "errors": errors, "repeated": repeated}


def _sources(folders: Sequence[Path]) -> dict[str, list[tuple[Path, str]]]:
    """The files of each kind, with the suffix of their shard."""
    found: dict[str, dict[Path, str]] = {"results": {}, "errors": {}}
    for folder in folders:
        try:
            names = sorted(os.listdir(folder))
        except OSError as error:
            raise UsageError(f"{folder} cannot be read: {error.strerror}") from None
        for name in names:
            if match := _FILES.fullmatch(name):
                found[match[1]][folder.resolve() / name] = match[2]
    return {kind: list(paths.items()) for kind, paths in found.items()}


def _lines(sources: Sequence[tuple[Path, str]]) -> Iterator[tuple[Path, Stamp, bytes]]:
    for path, _ in sources:
        for stamp, line in recover(str(path)):
            yield path.parent, stamp, line


def _write(
    path: Path,
    lines: Iterator[tuple[Path, Stamp, bytes]],
    target: Path,
    kept: _Kept,
    *,
    skip_known: bool = False,
) -> tuple[int, int]:
    """Write the lines whose items are not among `kept`, and add them there. Returns how many, and how many were."""
    written, repeated = 0, 0
    unfinished = path.with_name(f".{path.name}.merged")
    try:
        with open(unfinished, "wb") as file:
            for folder, stamp, line in lines:
                kept.options = kept.options or stamp.options
                if kept.options != stamp.options:
                    raise UsageError(f"{folder} has results of other options than the first: they do not go together")
                key, item = int(stamp.key, 16), int(stamp.item, 16)
                if key in kept.items:
                    if kept.items[key] != item and not skip_known:
                        known = json.loads(line)
                        raise UsageError(
                            f"the item {known['id']!r} ({known['task']}, {known['tgt_lang']}) was answered twice, from "
                            f"entries that differ; the second one is in {folder}"
                        )
                    repeated += 1
                    continue
                kept.items[key] = item
                file.write(line if folder == target.resolve() else _moved(line, stamp, folder, target.resolve()))
                written += 1
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(unfinished)
    return written, repeated


def _moved(line: bytes, stamp: Stamp, folder: Path, target: Path) -> bytes:
    """The line with the path of its speech as seen from another folder."""
    known: dict[str, Any] = json.loads(line)
    if not known.get("audio"):
        return line
    for name in ("crc32", *Stamp._fields):
        del known[name]
    return seal(known | {"audio": os.path.relpath(folder / known["audio"], target)}, stamp)


def _write_run(target: Path, sources: dict[str, list[tuple[Path, str]]]) -> None:
    """The first run.json, with the counts of all of them summed."""
    runs = []
    names = {(path.parent, suffix) for found in sources.values() for path, suffix in found}
    for folder, suffix in sorted(names):
        if (folder, suffix) == (target.resolve(), "") and len(names) > 1:
            continue  # of an earlier merge
        with contextlib.suppress(OSError, ValueError):
            runs.append(json.loads((folder / f"run{suffix}.json").read_text(encoding="utf-8")))
    if not runs:
        return
    last: dict[str, Any] = {name: sum(run["last_run"].get(name, 0) for run in runs) for name in _SUMS}
    last["rtfx"] = last["audio_seconds"] / last["seconds"] if last["seconds"] else 0.0
    stages = {name for run in runs for name in run["last_run"]["stages"]}
    last["stages"] = {name: sum(run["last_run"]["stages"].get(name, 0.0) for run in runs) for name in sorted(stages)}
    totals = {name: sum(run[name] for run in runs) for name in ("results", "errors")}
    merged = runs[0] | totals | {"last_run": last, "merged": len(runs)}
    content = json.dumps(merged, ensure_ascii=False, indent=2) + "\n"
    (target / "run.json").write_bytes(content.encode(errors="backslashreplace"))
