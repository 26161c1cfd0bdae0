"""The command `seamless-engine`: arguments to the API, results to stdout, progress to stderr."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seamless_engine import __version__, console, errors
from seamless_engine.config import EngineConfig, ModelConfig
from seamless_engine.errors import AudioError, CheckpointError, SeamlessError, UsageError
from seamless_engine.request import SPEECH_IN, SPEECH_OUT, TASKS, DecodingParams, Request, Result

OK, SOME_FAILED, USAGE, MODEL_UNAVAILABLE, OUT_OF_MEMORY = 0, console.FAILED, 2, 3, 4

DEFAULT_MODEL = "facebook/seamless-m4t-v2-large"
LICENCE = f"""seamless-engine {__version__}
The code is licensed under Apache-2.0. It brings no model weights: those of {DEFAULT_MODEL}
are Meta's, under CC-BY-NC-4.0 (no commercial use), and are fetched from the hub when asked for."""

_log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; a malformed command line raises SystemExit(2), as argparse does.

    argv: None is the command line of this process, which then is the command's own.
    """
    return console.run(lambda: _run(sys.argv[1:] if argv is None else argv), own_process=argv is None)


def _run(argv: Sequence[str]) -> int:
    args = _parser().parse_args(_underscored(argv))
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
    chosen = {name: value for name, value in vars(args).items() if name in _DECODING}
    params = DecodingParams.meta(**chosen) if args.meta else DecodingParams(**chosen)
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
    from seamless_engine import Engine  # here, since it imports torch, which takes seconds

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
        too_large = result.error.startswith("CapacityError: out of memory")
        planned = hasattr(errors, result.error.partition(":")[0])
        message = result.error if planned else f"{result.error}. {console.PLEASE_REPORT}"
        return console.fail(OUT_OF_MEMORY if too_large else SOME_FAILED, message)
    if result.finish_reason == "length":
        _log.warning("warning: the text was cut off after %d tokens: raise --max_new_tokens", len(result.tokens))
    lost: console.StdoutError | None = None
    try:
        for hypothesis in result.n_best:
            (console.tell if audio_on_stdout else console.emit)(hypothesis.text)
    except console.StdoutError as error:
        lost = error  # the audio is written all the same
    code = OK if args.output_path is None else _write_audio(args.output_path, audio_on_stdout, result)
    if lost is not None:
        raise lost
    return code


def _check_output(args: argparse.Namespace) -> bool:
    """Raises UsageError if the speech cannot be written where it shall go. Returns whether that is stdout."""
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
    """Raises the error that the engine would have for this request, before there is one: the weights are not read."""
    from seamless_engine.front_end import FrontEnd
    from seamless_engine.tokenizer import Tokenizer

    folder = _without_weights(model)
    config = ModelConfig.from_folder(folder)
    front_end = FrontEnd(config, EngineConfig(), TASKS, Tokenizer.from_folder(folder, config))
    front_end.check(request, params)
    _log.info("loading %s", model)  # preparing audio imports torch
    front_end.prepare(request, params, Result(0, request.task, request.tgt_lang))


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
    from seamless_engine.languages import Languages

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
    """Ask every operation, at the sizes of v2-large and in every dtype, whether it is as near to its formula as its
    roundings allow, and whether a row has the same bits whatever is computed with it. Needs no model; takes less than a
    minute."""
    from seamless_engine import selftest
    from seamless_engine.engine import resolve_device

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


_DECODING = {option.name: option.default for option in dataclasses.fields(DecodingParams)}


def _value(text: str) -> Any:
    """A number, true, false, none or a list; anything else as it is, for DecodingParams to judge."""
    if text.lower() in ("true", "false", "none"):
        text = text.capitalize()
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("seamless-engine", description="SeamlessM4T-v2 inference", formatter_class=raw)
    parser.add_argument("--version", action="version", version=LICENCE)
    commands = parser.add_subparsers(required=True, metavar="{translate,languages,env,selftest}")

    command = commands.add_parser("translate", help="translate one clip or text", description=translate.__doc__)
    command.set_defaults(run=translate)
    command.add_argument("input", help="an audio file, or the text; - reads it from stdin")
    _add_task(command, required=True)
    command.add_argument("--tgt_lang", required=True, help="code of the language to produce, for example fra")
    command.add_argument("--src_lang", help="code of the language of the text (t2tt, t2st)")
    _add_model(command)
    command.add_argument(
        "--output_path", help="audio file to write (s2st, t2st): .wav, .flac, .ogg, .opus or .mp3; - is stdout"
    )
    command.add_argument("--speaker_id", type=int, help="voice of the speech output")
    _add_device(command)
    command.add_argument("--dtype", default="auto", help="auto (the default), float32, float16 or bfloat16")
    command.add_argument(
        "--reference",
        default="transformers",
        choices=("transformers", "meta"),
        help="whose networks: transformers' (the default), or Meta's, as the weights were trained",
    )
    command.add_argument(
        "--check_weights", action="store_true", help="refuse a checkpoint with NaN or infinite weights"
    )
    group = command.add_argument_group(
        "decoding", "Named as in transformers' generate(); values like 5, 0.7, true, [12, 9], [[12, 7], [9]]."
    )
    group.add_argument(
        "--meta", action="store_true", help="the original project's choices; single options override them"
    )
    for name, default in _DECODING.items():
        group.add_argument(
            f"--{name}", type=_value, default=argparse.SUPPRESS, metavar="VALUE", help=f"default: {default}"
        )

    command = commands.add_parser("languages", help="languages of a checkpoint", description=languages.__doc__)
    command.set_defaults(run=languages)
    _add_task(command, required=False)
    _add_model(command)

    command = commands.add_parser("env", help="versions and devices, for a bug report", description=env.__doc__)
    command.set_defaults(run=env)

    command = commands.add_parser("selftest", help="check this machine's arithmetic", description=selftest.__doc__)
    command.set_defaults(run=selftest)
    _add_device(command)
    return parser


def _add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", default="auto", help="auto (the default), cpu, cuda, cuda:1, ...")


def _add_task(command: argparse.ArgumentParser, required: bool) -> None:
    command.add_argument("--task", required=required, type=str.lower, choices=TASKS, help="any case")


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", default=DEFAULT_MODEL, help="checkpoint folder or hub id (default: %(default)s)")


def _underscored(argv: Sequence[str]) -> list[str]:
    """Flags with `-` spelled with `_`, so that both are accepted; what follows a lone `--` is left alone."""
    end = list(argv).index("--") if "--" in argv else len(argv)
    spelled = []
    for word in argv[:end]:
        name, equals, value = word.partition("=")
        spelled.append(f"--{name[2:].replace('-', '_')}{equals}{value}" if word.startswith("--") else word)
    return spelled + list(argv[end:])


def _without_weights(model: str) -> Path:
    """The folder with the small files of a checkpoint. Of a model on the hub, the weights are not fetched."""
    folder = Path(model)
    if folder.is_dir():
        return folder
    from seamless_engine.loader import find_checkpoint  # imports torch

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
