"""The folder of a job: results, errors, speech and other files, and what is done already when a job goes on."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from seamless_engine.audio_output import encode_audio
from seamless_engine.errors import UsageError
from seamless_engine.jobs.formats import written_as
from seamless_engine.jobs.items import Item, Rejected
from seamless_engine.jobs.lines import LineFile, Stamp, recover, seal, write_whole
from seamless_engine.jobs.names import file_stem, hash_of
from seamless_engine.request import Result

_SYNC_SECONDS = 1.0
_RESULT_FIELDS = "text segments audio_seconds score finish_reason warnings token_logprobs n_best timings".split()
_UNITS = ("tokens", "units")  # of hypotheses: long, and of little use in a file

_log = logging.getLogger(__name__)

Status = Literal["new", "done", "changed", "duplicate"]


class Output:
    """Opened by one process at a time. Speech is written before the line that names it, and each line at once.

    results, errors: lines of the two files. record_path: run.json.
    """

    def __init__(
        self,
        folder: str,
        options: dict[str, Any],
        *,
        shard: tuple[int, int] = (1, 1),
        overwrite: bool = False,
        keep_errors: bool = False,
        formats: Sequence[str] = (),
        audio_format: str = "wav",
    ) -> None:
        """options: all that changes results, for all items. keep_errors: do not try again what failed.

        Raises UsageError if the folder cannot be used, another process uses it, or it has results of other options.
        """
        self.folder = Path(folder)
        self.options = options
        self._hash = hash_of(options)
        self._formats = formats
        self._suffix = audio_format
        self.name = "" if shard == (1, 1) else f"-{shard[0]}-of-{shard[1]}"
        self.record_path = self.folder / f"run{self.name}.json"
        self._done: dict[int, int] = {}  # key → item, of lines that an earlier run wrote
        self._seen: set[int] = set()
        for one in ("audio", *formats):
            make_folder(self.folder / one)
        self._results_path, self._errors_path = self._path("results.jsonl"), self._path("errors.jsonl")
        with contextlib.ExitStack() as opened:
            opened.callback(os.close, lock(self.folder, self.name))
            if overwrite:
                self._remove_all()
            self.results = self._recover_results()
            self.errors = self._recover_errors() if keep_errors else 0
            self._result_lines = LineFile(self._results_path)
            opened.callback(self._result_lines.close)
            self._error_lines = LineFile(self._errors_path, empty=not keep_errors)
            opened.callback(self._error_lines.close)
            self._opened = opened.pop_all()
        self._synced = time.monotonic()

    def status(self, item: Item | Rejected) -> Status:
        """What is known of an item, which is seen from now on. changed: it is done, and said something else then."""
        key = int(key_of(item), 16)
        if key in self._seen:
            return "duplicate"
        self._seen.add(key)
        done = self._done.pop(key, None)
        if done is None:
            return "new"
        return "done" if not isinstance(item, Item) or done == int(item.hash, 16) else "changed"

    def write_result(self, item: Item, result: Result) -> None:
        """A result without an error. Raises OutputError."""
        stem = file_stem(item.id, item.task, item.tgt_lang)
        audio = None
        if result.audio is not None and result.sampling_rate is not None:
            audio = f"audio/{stem}.{self._suffix}"
            self._write_file(audio, encode_audio(audio, result.audio, result.sampling_rate))
        known = result.to_json()
        fields: dict[str, Any] = {"id": item.id, "task": item.task, "tgt_lang": item.tgt_lang}
        fields |= {name: known[name] for name in _RESULT_FIELDS if name in known and _is_told(name, known)}
        fields |= {"audio": audio, "input": item.fields}
        for one in fields.get("n_best", ()):
            for name in _UNITS:
                del one[name]
        line = seal(fields, Stamp(key_of(item), item.hash, self._hash))
        self._write_formats(stem, line)
        self._result_lines.append(line)
        self.results += 1
        self._sync_sometimes()

    def write_error(self, item: Item, kind: str, message: str) -> None:
        """An item that failed. Raises OutputError."""
        self._write_error(item, kind, message, item.hash)

    def write_rejected(self, item: Rejected) -> None:
        """An item that cannot be asked. Raises OutputError."""
        self._write_error(item, item.kind, item.message, hash_of(item.fields))

    def write_run(self, facts: dict[str, Any]) -> None:
        """run.json. Raises OutputError."""
        content = json.dumps(facts, ensure_ascii=False, indent=2, default=str).encode(errors="backslashreplace")
        self._write_file(self.record_path.name, content + b"\n")

    def sync(self) -> None:
        """Have all lines on the disk. Raises OutputError."""
        self._result_lines.sync()
        self._error_lines.sync()
        self._synced = time.monotonic()

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def _write_error(self, item: Item | Rejected, kind: str, message: str, hash: str) -> None:
        fields = {"id": item.id, "task": item.task, "tgt_lang": item.tgt_lang, "kind": kind, "message": message}
        fields |= {"place": item.place, "input": item.fields}
        self._error_lines.append(seal(fields, Stamp(key_of(item), hash, self._hash)))
        self.errors += 1
        self._sync_sometimes()

    def _write_formats(self, stem: str, line: bytes, *, missing: bool = False) -> None:
        """missing: only those that are not there."""
        known = json.loads(line) if self._formats else {}
        for format in self._formats:
            name = f"{format}/{stem}.{format}"
            if missing and (self.folder / name).exists():
                continue
            content = written_as(format, known)
            if content is not None:
                self._write_file(name, content)

    def _write_file(self, name: str, content: bytes) -> None:
        write_whole(str(self.folder / name), content, str(self.folder / f".unfinished{self.name}"))

    def _sync_sometimes(self) -> None:
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self.sync()

    def _path(self, name: str) -> str:
        stem, suffix = name.split(".")
        return str(self.folder / f"{stem}{self.name}.{suffix}")

    def _recover_results(self) -> int:
        count = 0
        for stamp, line in recover(self._results_path):
            if stamp.options != self._hash:
                raise UsageError(self._difference())
            if self._formats:
                known = json.loads(line)
                self._write_formats(file_stem(known["id"], known["task"], known["tgt_lang"]), line, missing=True)
            self._done[int(stamp.key, 16)] = int(stamp.item, 16)
            count += 1
        return count

    def _recover_errors(self) -> int:
        count = 0
        for stamp, _ in recover(self._errors_path):
            self._done.setdefault(int(stamp.key, 16), int(stamp.item, 16))
            count += 1
        return count

    def _difference(self) -> str:
        try:
            before = json.loads(self.record_path.read_text(encoding="utf-8"))["options"]
        except (OSError, ValueError, KeyError):
            before = {}
        now = json.loads(json.dumps(self.options, default=str))
        changes = _changes(before, now) if before else ["run.json does not say which"]
        return (
            f"{self._results_path} has results of other options ({'; '.join(changes)}): use the same ones, give "
            "another --output_dir, or --overwrite to drop those results"
        )

    def _remove_all(self) -> None:
        for _, line in recover(self._path("results.jsonl")):
            known = json.loads(line)
            stem = file_stem(known["id"], known["task"], known["tgt_lang"])
            for name in (f"audio/{stem}.wav", f"audio/{stem}.flac", *(f"{one}/{stem}.{one}" for one in self._formats)):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.folder / name)
        for name in ("results.jsonl", "errors.jsonl", "run.json", "run.png"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(name))


def key_of(item: Item | Rejected) -> str:
    return hash_of(item.id, item.task, item.tgt_lang)


def make_folder(folder: Path) -> None:
    """Raises UsageError if it cannot be made, or files cannot be made in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder} cannot be made: {getattr(error, 'strerror', None) or error}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{folder} cannot be written: no permission to make files in it")


def lock(folder: Path, name: str) -> int:
    """A file that this process holds as long as it is open. Raises UsageError if another process holds it."""
    path = folder / f".run{name}.lock"
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(file, 200, 0).decode(errors="replace").strip()
        os.close(file)
        raise UsageError(f"{folder} is in use by {holder or 'another process'}: wait for it, or stop it") from None
    except OSError as error:  # as on some file systems of clusters
        _log.warning("%s cannot be locked (%s): see to it that no other run uses the folder", path, error.strerror)
    with contextlib.suppress(OSError):  # a full disk: others are told less
        os.ftruncate(file, 0)
        os.pwrite(
            file, f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%F %T')}\n".encode(), 0
        )
    return file


def _is_told(name: str, known: dict[str, Any]) -> bool:
    """Whether a field of a result that most requests do not ask for was asked for."""
    if name == "n_best":
        return len(known[name]) > 1
    return name != "token_logprobs" or known[name] is not None


def _changes(before: Any, now: Any, name: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            change
            for key in sorted({*before, *now})
            for change in _changes(before.get(key), now.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if before == now else [f"{name} was {before!r} and is now {now!r}"]
