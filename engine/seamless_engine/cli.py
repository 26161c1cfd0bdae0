"""The command `seamless-engine`: arguments to the API, results to stdout, progress to stderr."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from seamless_engine import cli_jobs, cli_parser, console
from seamless_engine.config import EngineConfig, ModelConfig
from seamless_engine.errors import AudioError, CapacityError, CheckpointError, SeamlessError, UsageError
from seamless_engine.request import SPEECH_IN, SPEECH_OUT, TASKS, DecodingParams, Request, Result

OK, SOME_FAILED, USAGE, MODEL_UNAVAILABLE, OUT_OF_MEMORY = 0, console.FAILED, 2, 3, 4

_log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. A malformed command line raises SystemExit(2), as argparse does.

    argv: None is the command line of this process, which then handles signals for the command.
    """
    return console.run(lambda: _run(sys.argv[1:] if argv is None else argv), own_process=argv is None)


def _run(argv: Sequence[str]) -> int:
    args = cli_parser.parse(argv, _COMMANDS)
    console.log_to_stderr("seamless_engine")
    console.require_stdout()
    try:
        return args.run(args)
    except UsageError as error:
        return console.fail(USAGE, error)
    except CheckpointError as error:
        return console.fail(MODEL_UNAVAILABLE, error)
    except SeamlessError as error:
        return console.fail(SOME_FAILED, error)
    except (MemoryError, RuntimeError) as error:
        from seamless_engine.recovery import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        return console.fail(OUT_OF_MEMORY, f"out of memory: {error}")


def translate(args: argparse.Namespace) -> int:
    """One input through one task."""
    audio_on_stdout = _check_output(args)
    params = cli_parser.decoding(args)
    listens = args.task in SPEECH_IN
    request = Request(
        args.task,
        args.tgt_lang,
        audio=_audio(args.input) if listens else None,
        text=None if listens else _text(args.input, args.task),
        src_lang=args.src_lang,
        speaker_id=args.speaker_id,
        params=params,
    )
    _check_request(args.model, request, params)
    from seamless_engine import Engine  # imports torch, which takes seconds

    engine = Engine.from_pretrained(
        args.model,
        tasks=(args.task,),
        device=args.device,
        dtype=args.dtype,
        options=EngineConfig(reference=args.reference),
        check_weights=args.check_weights,
    )
    result = engine.generate([request])[0]
    for warning in result.warnings:
        _log.warning("warning: %s", warning)
    if result.error is not None:
        return _fail(result.error)
    if result.finish_reason == "length":
        _log.warning("warning: the text was cut off after %d tokens: raise --max_new_tokens", len(result.tokens))
    lost: console.StdoutError | None = None
    try:
        for hypothesis in result.n_best:
            (console.tell if audio_on_stdout else console.emit)(hypothesis.text)
    except console.StdoutError as error:
        lost = error  # raised after the audio is written
    code = OK if args.output_path is None else _write_audio(args.output_path, audio_on_stdout, result)
    if lost is not None:
        raise lost
    return code


def _fail(error: SeamlessError) -> int:
    if type(error) is SeamlessError:  # a fault of the engine, whose message names the class
        return console.fail(SOME_FAILED, f"{error}. {console.PLEASE_REPORT}")
    out_of_memory = isinstance(error, CapacityError) and error.out_of_memory
    return console.fail(OUT_OF_MEMORY if out_of_memory else SOME_FAILED, f"{type(error).__name__}: {error}")


def _check_output(args: argparse.Namespace) -> bool:
    """Raises UsageError if the speech cannot be written to the output path. Returns whether that is stdout."""
    output: str | None = args.output_path
    if args.task not in SPEECH_OUT:
        if output is not None:
            raise UsageError(f"--output_path is where speech goes; {args.task} produces text, on stdout")
        return False
    if output is None:
        raise UsageError(f"{args.task} produces speech: give --output_path, for example --output_path out.wav")
    if output != "-":
        from seamless_engine.audio_output import check_output

        check_output(output)
    on_stdout = output == "-" or console.is_stdout(output)
    if on_stdout and sys.stdout.isatty():
        raise UsageError("audio is not written to a terminal: name a file, or use `> file` or `|`")
    return on_stdout


def _check_request(model: str, request: Request, params: DecodingParams) -> None:
    """Raises the error that the engine would have for this request, before the weights are read."""
    from seamless_engine.inputs.preprocess import Preprocessor
    from seamless_engine.inputs.tokenizer import Tokenizer

    folder = _without_weights(model)
    config = ModelConfig.from_folder(folder)
    preprocessor = Preprocessor(config, EngineConfig(), TASKS, Tokenizer.from_folder(folder, config))
    preprocessor.check(request, params)
    _log.info("loading %s", model)  # preparing audio imports torch
    preprocessor.prepare(request, params, Result(0, request.task, request.tgt_lang))


def _write_audio(output: str, on_stdout: bool, result: Result) -> int:
    from seamless_engine.audio_output import encode_audio, write_audio

    assert result.audio is not None and result.sampling_rate is not None
    try:
        if on_stdout:
            console.emit_bytes(encode_audio(output, result.audio, result.sampling_rate))
        else:
            write_audio(output, result.audio, result.sampling_rate)
    except (OSError, UsageError) as error:
        reason = getattr(error, "strerror", None) or error
        return console.fail(SOME_FAILED, f"the speech could not be written to {output}: {reason}")
    _log.info("wrote %s, %.2f s of speech", "stdout" if on_stdout else output, len(result.audio) / result.sampling_rate)
    return OK


def languages(args: argparse.Namespace) -> int:
    """One line per task: the task and the codes that it can produce."""
    from seamless_engine.inputs.languages import Languages

    table = Languages(ModelConfig.from_folder(_without_weights(args.model)))
    for task in TASKS if args.task is None else (args.task,):
        console.emit(f"{task:<5} {' '.join(table.codes(task))}")
    return OK


def env(args: argparse.Namespace) -> int:
    """Versions, devices and the implementations in use."""
    from seamless_engine.environment import describe

    facts = describe()
    width = max(map(len, facts))
    for name, value in facts.items():
        console.emit(f"{name:<{width}}  {value}")
    return OK


def selftest(args: argparse.Namespace) -> int:
    """One line per operation and dtype: ok, or what is wrong."""
    from seamless_engine import selftest
    from seamless_engine.device import resolve_device

    failed = 0
    for outcome in selftest.run(resolve_device(args.device)):
        dtype = str(outcome.dtype).removeprefix("torch.")
        console.emit(f"{outcome.operation:<17} {dtype:<9} {outcome.implementation:<7} {outcome.problem or 'ok'}")
        failed += outcome.problem is not None
    if not failed:
        return OK
    return console.fail(
        SOME_FAILED,
        f"{failed} checks failed: results on this machine may be wrong or depend on the batch. Try "
        "SEAMLESS_BACKEND=torch, and please report this, with what `seamless-engine env` prints",
    )


def run(args: argparse.Namespace) -> int:
    """Many inputs through any tasks, to files."""
    return cli_jobs.run(args, _without_weights)


_COMMANDS = {
    "translate": translate,
    "run": run,
    "merge": cli_jobs.merge,
    "languages": languages,
    "env": env,
    "selftest": selftest,
}


def _without_weights(model: str) -> Path:
    """The folder with the small files of a checkpoint. The weights of a model on the hub are not downloaded."""
    folder = Path(model)
    if folder.is_dir():
        return folder
    from seamless_engine.loading.loader import find_checkpoint  # imports torch

    return find_checkpoint(model, weights=False)


def _audio(given: str) -> str | bytes:
    if given == "-":
        return console.read_bytes()
    try:
        with open(given, "rb") as file:
            return given if file.seekable() else file.read()
    except (OSError, ValueError) as error:
        raise AudioError(f"{given} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _text(given: str, task: str) -> str:
    if given == "-":
        return console.read_text()
    if os.path.isfile(given):
        name = shlex.quote(given)
        raise UsageError(
            f"{given} is a file, and {task} takes the text itself. To translate what the file holds, give - as the "
            f"input and `< {name}`; to translate its name, `echo {name} |` and -"
        )
    return given
