"""The commands `run` and `merge`: options to a job, its exit code and its summary."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seamless_engine import console
from seamless_engine.cli_job_parser import config_of, decoding_of, options_of
from seamless_engine.config import EngineConfig, ModelConfig
from seamless_engine.errors import SeamlessError, UsageError
from seamless_engine.jobs.formats import FORMATS
from seamless_engine.jobs.inputs import Input, find_inputs
from seamless_engine.jobs.items import Check, Defaults, parse_tasks
from seamless_engine.request import SPEECH_IN, SPEECH_OUT, TASKS, Request
from seamless_engine.segmentation.options import Segmentation

_log = logging.getLogger(__name__)


def run(args: argparse.Namespace, folder_of: Callable[[str], Path]) -> int:
    """Answer all items. Returns the exit code.

    folder_of: the folder with the small files of a checkpoint.
    """
    from seamless_engine.jobs.output import make_folder

    options = options_of(args)
    config, defaults, shard, formats = config_of(options), _defaults(options), _shard(options), _formats(options)
    if not options["check"]:
        if "output_dir" not in options:
            raise UsageError("--output_dir is needed: the folder of the results")
        make_folder(Path(options["output_dir"]))
    stdin = sys.stdin.buffer if "-" in args.input and sys.stdin is not None else None
    inputs = find_inputs(args.input, stdin, options.get("output_dir"))
    check = _checker(folder_of(options["model"]), config, defaults)
    _check_tasks(inputs, defaults, check)
    if options["check"]:
        return _check_all(inputs, options, defaults, check, shard)
    return _run(args.input, inputs, options, config, defaults, check, shard, formats)


def merge(args: argparse.Namespace) -> int:
    """Join output folders. Returns the exit code."""
    from seamless_engine.jobs.merge import merge

    counts = merge(args.folder, args.output_dir)
    _log.info("%s", ", ".join(f"{count:,} {name}" for name, count in counts.items()))
    return 0


def _run(
    names: list[str],
    inputs: list[Input],
    options: dict[str, Any],
    config: EngineConfig,
    defaults: Defaults,
    check: Check,
    shard: tuple[int, int],
    formats: list[str],
) -> int:
    from seamless_engine import Engine
    from seamless_engine.device import resolve_device, resolve_dtype
    from seamless_engine.jobs.fingerprint import fingerprint
    from seamless_engine.jobs.output import Output
    from seamless_engine.jobs.picture import plot
    from seamless_engine.jobs.progress import Counts, Progress, table
    from seamless_engine.jobs.record import Record
    from seamless_engine.jobs.run import Job, limited, read_items
    from seamless_engine.loading.loader import find_checkpoint

    device = resolve_device(options["device"])
    dtype = resolve_dtype(options["dtype"], device)
    folder = find_checkpoint(options["model"])

    def load() -> Engine:
        _log.info("loading %s", options["model"])
        tasks = TASKS if any(one.kind == "manifest" for one in inputs) else [task for task, _ in defaults.tasks]
        return Engine.from_pretrained(
            folder, tasks=tasks, device=device, dtype=dtype, options=config, check_weights=options["check_weights"]
        )

    with Output(
        options["output_dir"],
        _decisive(fingerprint(folder), str(dtype), config, defaults, options),
        shard=shard,
        overwrite=options["overwrite"],
        keep_errors=options["keep_errors"],
        formats=formats,
        audio_format=options["audio_format"],
    ) as output:
        counts = Counts()
        record = Record(output, counts, {"input": names} | options, str(device))
        record.note("running")
        if output.results:
            _log.info("%s has %d results already", options["output_dir"], output.results)
        items = limited(read_items(inputs, defaults, check, shard, counts), options.get("limit"))
        progress = Progress(sys.stderr, _total(inputs) if sys.stderr.isatty() else None)
        job = Job(items, output, counts, progress, lambda text: _log.warning("%s", text))
        try:
            job.run(load)
        except BaseException as error:
            with contextlib.suppress(SeamlessError):  # the disk may be full
                record.note("interrupted" if isinstance(error, KeyboardInterrupt) else f"failed: {error}")
            raise
        record.note("done" if job.signal is None else "interrupted")
        if counts.seconds:
            with contextlib.suppress(OSError):
                plot(str(output.folder / f"run{output.name}.png"), progress.samples, counts)
    for line in table(counts, options["output_dir"]).splitlines():
        _log.info("%s", line)
    if job.signal is not None:
        return 128 + job.signal
    return console.FAILED if counts.errors or counts.changed else 0


def _decisive(
    checkpoint: str, dtype: str, config: EngineConfig, defaults: Defaults, options: dict[str, Any]
) -> dict[str, Any]:
    """All that changes results, for every item."""
    return {
        "checkpoint": checkpoint,
        "dtype": dtype.removeprefix("torch."),
        "int8": config.int8,
        "reference": config.reference,
        "decoding": dataclasses.asdict(defaults.params),
        "segmentation": None if defaults.segment is None else dataclasses.asdict(defaults.segment),
        "audio_format": options["audio_format"],
    }


def _check_all(
    inputs: list[Input], options: dict[str, Any], defaults: Defaults, check: Check, shard: tuple[int, int]
) -> int:
    from seamless_engine.jobs.check import check_items
    from seamless_engine.jobs.progress import Counts
    from seamless_engine.jobs.run import limited, read_items

    items = limited(read_items(inputs, defaults, check, shard, Counts()), options.get("limit"))
    right, wrong = check_items(items, console.emit)
    _log.info("%d items are right, %d are not", right, wrong)
    return console.FAILED if wrong else 0


def _defaults(options: dict[str, Any]) -> Defaults:
    params = decoding_of(options)
    segment = _segmentation(options["segment"], options["segmentation"])
    if segment is not None and params.num_return_sequences > 1:
        raise UsageError("num_return_sequences needs --segment never: the segments of an input have one text each")
    return Defaults(
        parse_tasks(options["task"]) if "task" in options else (),
        options.get("src_lang"),
        options.get("tgt_lang"),
        options.get("speaker_id"),
        params,
        segment,
        options.get("audio_root"),
    )


def _segmentation(when: str, fields: dict[str, Any]) -> Segmentation | None:
    known = [field.name for field in dataclasses.fields(Segmentation) if field.name != "segmenter"]
    for name in fields:
        if name not in known:
            raise UsageError(f"segmentation has no {name!r}: use {', '.join(known)}")
    if when not in ("auto", "always", "never"):
        raise UsageError(f"--segment is auto, always or never, not {when!r}")
    if when == "never":
        if fields:
            raise UsageError("--segment never leaves nothing to --segmentation")
        return None
    given = Segmentation(**fields)
    if when == "auto" and "above" not in fields:
        return dataclasses.replace(given, above=given.limit)
    return given


def _shard(options: dict[str, Any]) -> tuple[int, int]:
    text = options.get("shard", "1/1")
    k, slash, n = text.partition("/")
    if not (slash and k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
        raise UsageError(f"--shard is k/n with k from 1 to n, as in 2/8, not {text!r}")
    return int(k), int(n)


def _formats(options: dict[str, Any]) -> list[str]:
    formats = [one.strip() for one in options["formats"].split(",") if one.strip()]
    for one in formats:
        if one not in FORMATS:
            raise UsageError(f"--formats knows {', '.join(FORMATS)}, not {one!r}")
    if options["audio_format"] not in ("wav", "flac"):
        raise UsageError(f"--audio_format is wav or flac, not {options['audio_format']!r}")
    return formats


def _checker(folder: Path, config: EngineConfig, defaults: Defaults) -> Check:
    """Checks a request against the tables of a checkpoint, without its weights."""
    from seamless_engine.inputs.preprocess import Preprocessor
    from seamless_engine.inputs.tokenizer import Tokenizer

    model = ModelConfig.from_folder(folder)
    preprocessor = Preprocessor(model, config, TASKS, Tokenizer.from_folder(folder, model))

    def check(request: Request) -> str:
        preprocessor.check(request, request.params or defaults.params)
        return preprocessor.languages.target(request.task, request.tgt_lang).code

    return check


def _check_tasks(inputs: list[Input], defaults: Defaults, check: Check) -> None:
    """Raises UsageError for a task of the command line that its inputs or the checkpoint do not have."""
    kinds = {one.kind for one in inputs}
    if not defaults.tasks and kinds != {"manifest"}:
        raise UsageError(f"--task is needed: one of {', '.join(TASKS)}, or several")
    for task, language in defaults.tasks:
        listens = task in SPEECH_IN
        if ("text" if listens else "audio") in kinds:
            raise UsageError(f"{task} needs {'audio' if listens else 'text'}, and one of the inputs is no such thing")
        spoken = defaults.src_lang if task == "asr" else None
        target = language or spoken or defaults.tgt_lang
        if target is None and kinds != {"manifest"}:
            raise UsageError(f"{task} needs the language to produce: {task}:fra, or --tgt_lang")
        if target is not None and (listens or defaults.src_lang or kinds != {"manifest"}):
            example = Request(
                task,
                target,
                audio=b"" if listens else None,
                text=None if listens else "",
                src_lang=None if listens else defaults.src_lang,
                speaker_id=defaults.speaker_id if task in SPEECH_OUT else None,
                segment=defaults.segment,
            )
            check(example)


def _total(inputs: list[Input]) -> int | None:
    counts = [one.count() for one in inputs]
    return None if None in counts else sum(count or 0 for count in counts)
