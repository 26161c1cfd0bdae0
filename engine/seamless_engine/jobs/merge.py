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
from seamless_engine.jobs.lines import Stamp, cannot_write, recover, seal, write_whole
from seamless_engine.jobs.output import lock, make_folder
from seamless_engine.jobs.record import read_record, sums

_FILES = re.compile(r"(results|errors)((?:-\d+-of-\d+)?)\.jsonl")


@dataclass
class _Kept:
    """What the lines that are kept are about. items: key → item."""

    options: str | None = None
    items: dict[int, int] = field(default_factory=dict)


def merge(folders: Sequence[str], output_dir: str | None) -> dict[str, int]:
    """Join what is in the folders. Returns the numbers of results, errors and repeated lines.

    Of an item that was answered twice the first line is kept; an error counts only where there is no result. Paths of
    speech become relative to the output folder. Raises UsageError for results of different options or entries, and
    while a run writes to one of the folders; OutputError.
    """
    sources = _sources([Path(one) for one in folders])
    if not sources["results"] and not sources["errors"]:
        raise UsageError(f"no results.jsonl or results-k-of-n.jsonl in {', '.join(map(str, folders))}")
    make_folder(Path(output_dir or folders[0]))
    target = Path(output_dir or folders[0]).resolve()
    shards = {(path.parent, suffix) for found in sources.values() for path, suffix in found}
    with contextlib.ExitStack() as locks:
        for folder, suffix in sorted(shards | {(target, "")}):
            locks.callback(os.close, lock(folder, suffix))
        # An earlier merge left files, too: its errors may have been mended since, and its runs are those of shards.
        merged = {folder for folder, suffix in shards if suffix and read_record(folder / "run.json").get("merged")}
        shards -= {(folder, "") for folder in merged}
        errors_of = [(path, suffix) for path, suffix in sources["errors"] if (path.parent, suffix) in shards]
        kept = _Kept()
        results, repeated = _write(target / "results.jsonl", _lines(sources["results"]), target, kept)
        errors, _ = _write(target / "errors.jsonl", _lines(errors_of), target, kept, skip_known=True)
        _write_run(target, sorted(shards), results, errors)
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
                file.write(line if folder == target else _moved(line, stamp, folder, target))
                written += 1
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        raise cannot_write(str(path), error) from None
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


def _write_run(target: Path, shards: Sequence[tuple[Path, str]], results: int, errors: int) -> None:
    """The first run.json, with the runs of all of them."""
    records = [read_record(folder / f"run{suffix}.json") for folder, suffix in shards]
    runs = [run for record in records for run in record.get("runs", [])]
    states = {str(record.get("state")) for record in records}
    merged = next((record for record in records if record), {}) | {
        "state": "done" if states == {"done"} else "not all are done",
        "results": results,
        "errors": errors,
        **sums(runs),
        "merged": len(records),
        "runs": runs,
    }
    content = json.dumps(merged, ensure_ascii=False, indent=2) + "\n"
    encoded = content.encode(errors="backslashreplace")
    write_whole(str(target / "run.json"), encoded, str(target / ".unfinished"))
